# Nothing changes in a build that does not ask for it, not even a signature.
require ${@bb.utils.contains('DISTRO_FEATURES', 'spacecloud', 'linux-yocto-rt-spacecloud.inc', '', d)}
