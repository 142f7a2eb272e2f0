# Names of a chassis' modules and of its registry; no resolver. The same files as on the simulator's twin.
FILESEXTRAPATHS:prepend := "${@bb.utils.contains('DISTRO_FEATURES', 'spacecloud', '${THISDIR}/../spacecloud-conf/files:', '', d)}"
