#
# Copyright (c) 2026 The spacecloud authors
#
# SPDX-License-Identifier: MIT
#
# The two root slots: which one runs, and that it is as it was built.

from oeqa.core.decorator.depends import OETestDepends
from oeqa.runtime.case import OERuntimeTestCase


class SpacecloudSlotsTest(OERuntimeTestCase):
    def check(self, command, message):
        status, output = self.target.run(command)
        self.assertEqual(status, 0, msg="%s: '%s' said: %s" % (message, command, output))
        return output

    def setUp(self):
        status, _ = self.target.run("grep -q rauc.slot= /proc/cmdline")
        if status != 0:
            self.skipTest("this module was not started from a slot")

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    def test_verity(self):
        output = self.check("dmsetup table slot || dmsetup table", "the root has no device-mapper table")
        self.assertIn(" verity ", output, msg=output)

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    def test_nothing_else_says_that_a_slot_is_good(self):
        # RAUC brings a unit that does so as soon as the boot is over, whether the agent is in the cluster or not.
        output = self.target.run("systemctl is-enabled rauc-mark-good.service")[1]
        self.assertNotIn("enabled", output.split(), msg="rauc-mark-good.service is enabled")

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    def test_data_partition_has_quotas(self):
        output = self.check("grep ' /var/lib/spacecloud ' /proc/mounts", "/var/lib/spacecloud is on no disk of its own")
        self.assertIn("prjquota", output.split()[3].split(","), msg=output)

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    def test_state(self):
        slot = self.check("/usr/libexec/spacecloud/bootslot get-current", "the running slot is unknown").strip()
        self.assertIn(slot, ("a", "b"))
        output = self.check("/usr/libexec/spacecloud/bootslot get-state %s" % slot, "no state of slot %s" % slot)
        self.assertEqual(output.strip(), "good", msg="the running slot is %s" % output)
        output = self.check("rauc status --output-format=shell", "RAUC does not answer")
        self.assertIn("RAUC_SYSTEM_BOOTED_BOOTNAME='%s'" % slot, output, msg=output)
