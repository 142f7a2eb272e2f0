#
# Copyright (c) 2026 The spacecloud authors
#
# SPDX-License-Identifier: MIT
#
# Docker in bridge mode, containerd, and the registry that both pull from.

from oeqa.core.decorator.depends import OETestDepends
from oeqa.runtime.case import OERuntimeTestCase


class SpacecloudContainersTest(OERuntimeTestCase):
    def check(self, command, message):
        status, output = self.target.run(command, 300)
        self.assertEqual(status, 0, msg="%s: '%s' said: %s" % (message, command, output))
        return output

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    def test_containerd(self):
        self.check("systemctl is-active containerd", "containerd does not run")
        self.check("ctr version", "containerd does not answer")

    @OETestDepends(["spacecloud_containers.SpacecloudContainersTest.test_containerd"])
    def test_docker_bridge(self):
        output = self.check("docker network inspect -f '{{.Driver}}' bridge", "Docker has no bridge network")
        self.assertEqual(output.strip().splitlines()[-1], "bridge", msg=output)
        self.check("ip -4 address show docker0", "the bridge docker0 has no address")
        output = self.check("docker info -f '{{.CgroupVersion}} {{.Driver}}'", "docker info")
        self.assertEqual(output.strip().splitlines()[-1], "2 overlay2", msg=output)

    @OETestDepends(["spacecloud_containers.SpacecloudContainersTest.test_containerd"])
    def test_only_our_registry(self):
        output = self.check("cat /etc/containerd/certs.d/_default/hosts.toml", "containerd may pull from anywhere")
        self.assertIn("127.0.0.1:9", output, msg=output)

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    def test_registry(self):
        status, _ = self.target.run("test -e /etc/spacecloud/registry.enabled")
        if status != 0:
            self.skipTest("the registry runs on another module")
        self.check("systemctl is-active space-registry", "the registry does not run")
        self.check(
            "spacecloudd --version && test -s /var/lib/space-registry/tls/registry.crt",
            "the registry has no certificate of the cluster's authority",
        )
