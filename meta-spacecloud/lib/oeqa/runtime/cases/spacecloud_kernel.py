#
# Copyright (c) 2026 The spacecloud authors
#
# SPDX-License-Identifier: MIT
#
# The kernel of a module: real time, and every feature that the cluster needs.

from oeqa.core.decorator.depends import OETestDepends
from oeqa.runtime.case import OERuntimeTestCase


class SpacecloudKernelTest(OERuntimeTestCase):
    def check(self, command, message):
        status, output = self.target.run(command)
        self.assertEqual(status, 0, msg="%s: '%s' said: %s" % (message, command, output))
        return output

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    def test_realtime(self):
        output = self.check("cat /sys/kernel/realtime", "the kernel is not PREEMPT_RT")
        self.assertEqual(output.strip(), "1", msg="/sys/kernel/realtime reads %s" % output)

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    def test_bridge_and_packet_filter(self):
        self.check(
            "ip link add oeqa0 type bridge && ip link add oeqa1 type veth peer name oeqa2 && "
            "ip link set oeqa1 master oeqa0; s=$?; ip link del oeqa1; ip link del oeqa0; exit $s",
            "no bridge or no veth pair",
        )
        self.check(
            "nft add table inet oeqa && nft 'add chain inet oeqa c { type nat hook prerouting priority 0; }' && "
            "nft 'add rule inet oeqa c tcp dport 1 redirect to :2'; s=$?; nft delete table inet oeqa; exit $s",
            "nftables lacks NAT or redirect",
        )

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    def test_cgroups(self):
        output = self.check("cat /sys/fs/cgroup/cgroup.controllers", "no cgroup v2")
        for controller in ("cpuset", "cpu", "io", "memory", "pids"):
            self.assertIn(controller, output.split(), msg="cgroup controllers are: %s" % output)

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    def test_checkpoint_restore(self):
        output = self.check("criu check", "criu cannot work on this kernel")
        self.assertIn("Looks good", output, msg=output)

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    def test_read_only_root(self):
        # On the flight image the root itself is an erofs or another read-only file system.
        options = self.check("awk '$2 == \"/\" { print $3, $4 }' /proc/mounts | tail -n 1", "no root in /proc/mounts")
        kind, flags = options.split()
        self.assertTrue(
            kind in ("erofs", "squashfs", "overlay") or "ro" in flags.split(","), msg="the root is %s" % options
        )
        status, output = self.target.run("touch /usr/oeqa && rm /usr/oeqa")
        if kind != "overlay":
            self.assertNotEqual(status, 0, msg="/usr can be written to: %s" % options)
