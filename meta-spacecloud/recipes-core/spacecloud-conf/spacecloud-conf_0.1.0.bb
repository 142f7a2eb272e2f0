SUMMARY = "Configuration and units of a spacecloud module"
DESCRIPTION = "What spacecloudd, the registry, containerd and Docker are configured with on a module, their systemd \
units, the network and slot scripts, and the A/B update's backend. A mission overrides files by one bbappend of this \
recipe, or keys by drop-ins in /etc/spacecloud/spacecloud.toml.d. The simulator's twin image uses these same files."
HOMEPAGE = "https://spacecloud.example"
BUGTRACKER = "https://spacecloud.example/issues"
SECTION = "base"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${SPACECLOUD_TOP}/LICENSE;md5=4f6ef7152862ccb140526cb3500b2fb4"

SRC_URI = "\
    file://90-spacecloud.rules \
    file://bootslot \
    file://bootslot-installed \
    file://certs-default-hosts.toml \
    file://certs-registry-hosts.toml \
    file://containerd-config.toml \
    file://containerd.service.conf \
    file://daemon.json \
    file://data.mount \
    file://docker.service.conf \
    file://network.conf \
    file://registry.toml \
    file://space-registry.service \
    file://spacecloud-data \
    file://spacecloud-data.service \
    file://spacecloud-guard.service \
    file://spacecloud-network \
    file://spacecloud-network.service \
    file://spacecloud-slot \
    file://spacecloud-slot.service \
    file://spacecloud-storage \
    file://spacecloud-storage.service \
    file://spacecloud-trial \
    file://spacecloud-trial.service \
    file://spacecloud.sysusers \
    file://spacecloud.toml \
    file://spacecloudd.service \
"

S = "${UNPACKDIR}"

inherit features_check systemd useradd

REQUIRED_DISTRO_FEATURES = "spacecloud systemd"

SYSTEMD_PACKAGES = "${PN} ${PN}-module ${PN}-registry ${PN}-slots ${PN}-storage"
SYSTEMD_SERVICE:${PN} = "spacecloud-guard.service spacecloudd.service"
SYSTEMD_SERVICE:${PN}-module = "spacecloud-data.service spacecloud-network.service spacecloud-slot.service"
SYSTEMD_SERVICE:${PN}-registry = "space-registry.service"
SYSTEMD_SERVICE:${PN}-storage = "spacecloud-storage.service"
SYSTEMD_SERVICE:${PN}-slots = "data.mount spacecloud-trial.service"

# The registry keeps its blobs as a user of its own, with the same number on every module.
USERADD_PACKAGES = "${PN}-registry"
GROUPADD_PARAM:${PN}-registry = "--system --gid 945 space-registry"
USERADD_PARAM:${PN}-registry = "--system --uid 945 --gid space-registry --home-dir ${localstatedir}/lib/space-registry \
    --no-create-home --shell /sbin/nologin --comment 'spacecloud image registry' space-registry"

# A machine's own answers to the scripts' questions.
SPACECLOUD_BACKPLANE_MATCH ?= ""
SPACECLOUD_GROUND_MATCH ?= ""
SPACECLOUD_GROUND_ADDRESS ?= ""
SPACECLOUD_SLOT_SOURCES ?= "gpio dmi esp"
SPACECLOUD_WATCHDOG ?= ""

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}${sysconfdir}/spacecloud/spacecloud.toml.d ${D}${sysconfdir}/docker/certs.d/registry.spacecloud:5000
    install -m 0644 ${S}/network.conf ${S}/registry.toml ${S}/spacecloud.toml ${D}${sysconfdir}/spacecloud/
    # Debian, which the files are written for, has the CNI plugins elsewhere.
    printf '[agent]\ncni_bin = "%s/cni"\n' "${libexecdir}" > ${D}${sysconfdir}/spacecloud/spacecloud.toml.d/10-image.toml
    if [ -n "${SPACECLOUD_BACKPLANE_MATCH}" ]; then
        echo "BACKPLANE_MATCH=${SPACECLOUD_BACKPLANE_MATCH}" >> ${D}${sysconfdir}/spacecloud/network.conf
        echo "GROUND_MATCH=${SPACECLOUD_GROUND_MATCH}" >> ${D}${sysconfdir}/spacecloud/network.conf
    fi
    if [ -n "${SPACECLOUD_GROUND_ADDRESS}" ]; then
        echo "GROUND_ADDRESS=${SPACECLOUD_GROUND_ADDRESS}" >> ${D}${sysconfdir}/spacecloud/network.conf
    fi
    echo 'sources="${SPACECLOUD_SLOT_SOURCES}"' > ${D}${sysconfdir}/spacecloud/slot.conf
    case "${SPACECLOUD_SLOT_SOURCES}" in *gpio*)
        # The pins' driver may be a module that is loaded late.
        install -d ${D}${systemd_system_unitdir}/spacecloud-slot.service.d
        printf '[Unit]\nWants=systemd-udev-settle.service\n' > ${D}${systemd_system_unitdir}/spacecloud-slot.service.d/gpio.conf
    esac

    install -d ${D}${sysconfdir}/containerd/certs.d/_default ${D}${sysconfdir}/containerd/certs.d/registry.spacecloud:5000
    install -m 0644 ${S}/containerd-config.toml ${D}${sysconfdir}/containerd/config.toml
    install -m 0644 ${S}/certs-default-hosts.toml ${D}${sysconfdir}/containerd/certs.d/_default/hosts.toml
    install -m 0644 ${S}/certs-registry-hosts.toml \
        ${D}${sysconfdir}/containerd/certs.d/registry.spacecloud:5000/hosts.toml
    install -m 0644 ${S}/daemon.json ${D}${sysconfdir}/docker/daemon.json
    ln -s ${localstatedir}/lib/spacecloud/tls/ca.pem ${D}${sysconfdir}/docker/certs.d/registry.spacecloud:5000/ca.crt

    install -d ${D}${libexecdir}/spacecloud
    install -m 0755 ${S}/bootslot ${S}/bootslot-installed ${D}${libexecdir}/spacecloud/
    for script in data network slot storage trial; do
        install -m 0755 ${S}/spacecloud-$script ${D}${libexecdir}/spacecloud/$script
    done

    install -d ${D}${systemd_system_unitdir}/containerd.service.d ${D}${systemd_system_unitdir}/docker.service.d
    install -m 0644 ${S}/space-registry.service ${S}/data.mount ${D}${systemd_system_unitdir}/
    for unit in spacecloud-data spacecloud-guard spacecloud-network spacecloud-slot spacecloud-storage spacecloud-trial \
        spacecloudd; do
        install -m 0644 ${S}/$unit.service ${D}${systemd_system_unitdir}/
    done
    install -m 0644 ${S}/containerd.service.conf ${D}${systemd_system_unitdir}/containerd.service.d/spacecloud.conf
    install -m 0644 ${S}/docker.service.conf ${D}${systemd_system_unitdir}/docker.service.d/spacecloud.conf
    if [ -n "${SPACECLOUD_WATCHDOG}" ]; then
        install -d ${D}${systemd_unitdir}/system.conf.d
        printf '[Manager]\nRuntimeWatchdogSec=%s\n' "${SPACECLOUD_WATCHDOG}" > ${D}${systemd_unitdir}/system.conf.d/10-watchdog.conf
    fi

    install -d ${D}${nonarch_base_libdir}/udev/rules.d
    install -m 0644 ${S}/90-spacecloud.rules ${D}${nonarch_base_libdir}/udev/rules.d/

    # The network script writes the names' server, which it knows only when it knows the slot.
    ln -s /run/resolv.conf ${D}${sysconfdir}/resolv.conf

    # Mount points on the read-only root.
    install -d ${D}/data
    for name in spacecloud space-registry containerd docker; do
        install -d ${D}${localstatedir}/lib/$name
    done
}

# The machine's answers are in the files.
PACKAGE_ARCH = "${MACHINE_ARCH}"

PACKAGES =+ "${PN}-docker ${PN}-module ${PN}-registry ${PN}-slots ${PN}-storage"

FILES:${PN}-docker = "\
    ${sysconfdir}/docker \
    ${systemd_system_unitdir}/docker.service.d \
"
# What a module has whoever runs its containers: slot number, network, folders on the data partition.
FILES:${PN}-module = "\
    /data \
    ${libexecdir}/spacecloud/data \
    ${libexecdir}/spacecloud/network \
    ${libexecdir}/spacecloud/slot \
    ${localstatedir}/lib/containerd \
    ${localstatedir}/lib/docker \
    ${localstatedir}/lib/spacecloud \
    ${sysconfdir}/resolv.conf \
    ${sysconfdir}/spacecloud/network.conf \
    ${sysconfdir}/spacecloud/slot.conf \
    ${systemd_system_unitdir}/spacecloud-data.service \
    ${systemd_system_unitdir}/spacecloud-network.service \
    ${systemd_system_unitdir}/spacecloud-slot.service \
    ${systemd_system_unitdir}/spacecloud-slot.service.d \
    ${systemd_unitdir}/system.conf.d \
"
FILES:${PN}-registry = "\
    ${localstatedir}/lib/space-registry \
    ${sysconfdir}/spacecloud/registry.toml \
    ${systemd_system_unitdir}/space-registry.service \
"
FILES:${PN}-slots = "\
    ${libexecdir}/spacecloud/bootslot* \
    ${libexecdir}/spacecloud/trial \
    ${nonarch_base_libdir}/udev/rules.d \
    ${systemd_system_unitdir}/data.mount \
    ${systemd_system_unitdir}/spacecloud-trial.service \
"
FILES:${PN}-storage = "\
    ${libexecdir}/spacecloud/storage \
    ${systemd_system_unitdir}/spacecloud-storage.service \
"
FILES:${PN} += "${systemd_system_unitdir}"

RDEPENDS:${PN} = "${PN}-module"
RDEPENDS:${PN}-docker = "${PN}-module"
RDEPENDS:${PN}-module = "iproute2-ip"
RDEPENDS:${PN}-registry = "${PN}-module"
RDEPENDS:${PN}-slots = "${PN}-module rauc util-linux-flock util-linux-mount"
RDEPENDS:${PN}-storage = "${PN}-module nfs-utils"
RRECOMMENDS:${PN}-module = "libgpiod-tools"
