#
# Copyright (c) 2026 The spacecloud authors
#
# SPDX-License-Identifier: MIT
#
# The module is in its cluster.

from oeqa.core.decorator.depends import OETestDepends
from oeqa.runtime.case import OERuntimeTestCase


class SpacecloudClusterTest(OERuntimeTestCase):
    def check(self, command, message):
        status, output = self.target.run(command)
        self.assertEqual(status, 0, msg="%s: '%s' said: %s" % (message, command, output))
        return output

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    def test_slot_number(self):
        output = self.check("cat /run/spacecloud/slot", "the module does not know its slot")
        self.assertRegex(output.strip(), r"^\d+$", msg=output)

    @OETestDepends(["spacecloud_cluster.SpacecloudClusterTest.test_slot_number"])
    def test_backplane(self):
        output = self.check("ip -4 -o address show bp0", "the backplane interface has no address")
        self.assertIn("10.44.0.", output, msg=output)

    @OETestDepends(["spacecloud_cluster.SpacecloudClusterTest.test_backplane"])
    def test_units(self):
        for unit in ("spacecloudd", "spacecloud-guard"):
            self.check("systemctl is-active %s" % unit, "%s does not run" % unit)

    @OETestDepends(["spacecloud_cluster.SpacecloudClusterTest.test_units"])
    def test_membership(self):
        # The agent holds a lease: the server has acknowledged it, and not long ago.
        self.check(
            "for i in 1 2 3 4 5; do [ $(sed 's/^0*//; s/ .*//' /run/spacecloud/lease) -gt "
            "$(awk '{ printf \"%d\", $1 * 1000 }' /proc/uptime) ] && exit 0; sleep 1; done; exit 1",
            "the agent holds no lease: the module is not in the cluster",
        )
