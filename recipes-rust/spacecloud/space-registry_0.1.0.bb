SUMMARY = "A private OCI image registry"
DESCRIPTION = "Serves container images to the modules of a chassis, OCI distribution 1.1 over TLS."

require spacecloud.inc

CARGO_MEMBER = "registry"

RDEPENDS:${PN}:append:class-target = " spacecloud-conf-registry"
