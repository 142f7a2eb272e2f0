# Two root slots, bundles signed by the mission's key, for this machine only.
FILESEXTRAPATHS:prepend := "${@bb.utils.contains('DISTRO_FEATURES', 'spacecloud', '${THISDIR}/../spacecloud-conf/files:', '', d)}"

SRC_URI:append = "${@bb.utils.contains('DISTRO_FEATURES', 'spacecloud', ' file://rauc-system.conf', '', d)}"

python () {
    if not bb.utils.contains("DISTRO_FEATURES", "spacecloud", True, False, d):
        return
    d.setVar("PACKAGE_ARCH", "${MACHINE_ARCH}")
    # While there is no certificate of the mission's, everything can be parsed and built but this recipe.
    if not os.path.exists(d.expand("${SPACECLOUD_KEYS}/${RAUC_KEYRING_FILE}")):
        d.setVar("RAUC_KEYRING_URI", "file://ca.cert.pem")
}

do_install:append() {
    if ${@bb.utils.contains('DISTRO_FEATURES', 'spacecloud', 'true', 'false', d)}; then
        grep -q 'BEGIN CERTIFICATE' ${D}${nonarch_libdir}/rauc/${RAUC_KEYRING_FILE} || \
            bbfatal "No certificate for updates in ${SPACECLOUD_KEYS}: make one with meta-spacecloud/scripts/make-keys"
        sed -e 's|@COMPATIBLE@|${MACHINE}|' -e 's|@CONFIGURATION@|${nonarch_libdir}/rauc|' \
            ${UNPACKDIR}/rauc-system.conf > ${D}${nonarch_libdir}/rauc/system.conf
    fi
}
