SUMMARY = "A spacecloud module for the laboratory"
DESCRIPTION = "The flight image with ssh, a root login without a password, debugging tools, rt-tests and the programs' \
own tests. Not to be flown."

require spacecloud-image.inc

# The laboratory wants what flight must not have.
# nooelint: oelint.var.badimagefeature.allow-empty-password,oelint.var.badimagefeature.allow-root-login,oelint.var.badimagefeature.empty-root-password,oelint.var.badimagefeature.post-install-logging,oelint.var.badimagefeature.tools-debug
IMAGE_FEATURES += "\
    allow-empty-password \
    allow-root-login \
    empty-root-password \
    package-management \
    post-install-logging \
    ssh-server-openssh \
    tools-debug \
"

IMAGE_INSTALL += "packagegroup-spacecloud-debug"
# Our programs' tests only: those of all packages (ptest-pkgs) do not fit into a slot.
SPACECLOUD_PTESTS = "ptest-runner space-registry-ptest spacecloudd-ptest spacectl-ptest"
IMAGE_INSTALL += "${@bb.utils.contains('DISTRO_FEATURES', 'ptest', '${SPACECLOUD_PTESTS}', '', d)}"

# Runtime tests of this layer; see lib/oeqa/runtime/cases.
TEST_SUITES = "ping ssh spacecloud_kernel spacecloud_containers spacecloud_cluster spacecloud_slots"
