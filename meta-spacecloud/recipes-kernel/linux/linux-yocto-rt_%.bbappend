# Nothing changes in a build that does not ask for it, not even a signature.
require ${@bb.utils.contains('DISTRO_FEATURES', 'spacecloud', 'linux-yocto-rt-spacecloud.inc', '', d)}

COMPATIBLE_MACHINE:spacevpx = "${MACHINE}"
KMACHINE:spacevpx-x86-64 ?= "common-pc-64"
KMACHINE:spacevpx-arm64 ?= "qemuarm64"
