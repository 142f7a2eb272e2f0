SUMMARY = "A private OCI image registry"
DESCRIPTION = "Serves container images to the modules of a chassis, OCI distribution 1.1 over TLS."

require spacecloud.inc

CARGO_MEMBER = "registry"

# The first reads files of the sources; the others drive clients that an image does not have.
RUST_TEST_ARGS = "--skip what_the_fuzzer_is_given_and_has_found --skip clients::"

RDEPENDS:${PN}-ptest:append:class-target = " skopeo util-linux-mount util-linux-unshare"
RDEPENDS:${PN}:append:class-target = " spacecloud-conf-registry"
