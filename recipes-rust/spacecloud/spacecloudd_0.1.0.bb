SUMMARY = "Server and agent of an on-board cloud"
DESCRIPTION = "Decides where apps run on the modules of a chassis (server), and runs them (agent) through containerd, CNI and cgroups."

require spacecloud.inc

CARGO_MEMBER = "daemon"

# Its units and configuration are a mission's to change, so they have a recipe of their own.
RDEPENDS:${PN}:append:class-target = " spacecloud-conf"
