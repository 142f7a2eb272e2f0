# Two root slots, bundles signed by the mission's key, for this machine only.
FILESEXTRAPATHS:prepend := "${@bb.utils.contains('DISTRO_FEATURES', 'spacecloud', '${THISDIR}/../spacecloud-conf/files:', '', d)}"

SRC_URI:append = "${@bb.utils.contains('DISTRO_FEATURES', 'spacecloud', ' file://rauc-system.conf', '', d)}"

do_install:append() {
    if ${@bb.utils.contains('DISTRO_FEATURES', 'spacecloud', 'true', 'false', d)}; then
        sed -e 's|@COMPATIBLE@|${MACHINE}|' -e 's|@CONFIGURATION@|${nonarch_libdir}/rauc|' \
            ${UNPACKDIR}/rauc-system.conf > ${D}${nonarch_libdir}/rauc/system.conf
    fi
}

PACKAGE_ARCH = "${@bb.utils.contains('DISTRO_FEATURES', 'spacecloud', '${MACHINE_ARCH}', '${TUNE_PKGARCH}', d)}"
