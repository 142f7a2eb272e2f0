SUMMARY = "K3s pulls from the chassis' own registry"
DESCRIPTION = "registries.yaml and a configuration drop-in for K3s on the spacecloud base, and what a slot on trial asks there."
HOMEPAGE = "https://spacecloud.example"
BUGTRACKER = "https://spacecloud.example/issues"
SECTION = "base"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${SPACECLOUD_TOP}/LICENSE;md5=4f6ef7152862ccb140526cb3500b2fb4"

SRC_URI = "\
    file://bootslot.conf \
    file://config.yaml \
    file://k3s-agent.service.conf \
    file://k3s.service.conf \
    file://registries.yaml \
"

S = "${UNPACKDIR}"

inherit allarch features_check

REQUIRED_DISTRO_FEATURES = "spacecloud virtualization"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}${sysconfdir}/rancher/k3s/config.yaml.d
    install -m 0600 ${S}/registries.yaml ${D}${sysconfdir}/rancher/k3s/registries.yaml
    install -m 0600 ${S}/config.yaml ${D}${sysconfdir}/rancher/k3s/config.yaml.d/10-spacecloud.yaml
    install -d ${D}${sysconfdir}/spacecloud
    install -m 0644 ${S}/bootslot.conf ${D}${sysconfdir}/spacecloud/bootslot.conf
    for unit in k3s k3s-agent; do
        install -d ${D}${systemd_system_unitdir}/$unit.service.d
        install -m 0644 ${S}/$unit.service.conf ${D}${systemd_system_unitdir}/$unit.service.d/spacecloud.conf
    done
}

FILES:${PN} = "\
    ${sysconfdir} \
    ${systemd_system_unitdir} \
"
