SUMMARY = "What a spacecloud module has, by role"
DESCRIPTION = "Every compute module gets all roles installed: which ones run is decided on the module, so that a \
module's board can be exchanged for any other. A smaller image takes single groups."
HOMEPAGE = "https://spacecloud.example"
BUGTRACKER = "https://spacecloud.example/issues"
SECTION = "base"
LICENSE = "MIT"

PACKAGE_ARCH = "${MACHINE_ARCH}"

inherit features_check packagegroup

REQUIRED_DISTRO_FEATURES = "spacecloud virtualization"

PACKAGES = "\
    ${PN} \
    ${PN}-agent \
    ${PN}-debug \
    ${PN}-docker \
    ${PN}-registry \
    ${PN}-server \
    ${PN}-storage \
    ${PN}-update \
"

RDEPENDS:${PN} = "\
    ${PN}-agent \
    ${PN}-docker \
    ${PN}-registry \
    ${PN}-server \
    ${PN}-storage \
"

RDEPENDS:${PN}-server = "\
    spacecloud-conf \
    spacecloudd \
"

RDEPENDS:${PN}-agent = "\
    cni \
    containerd \
    criu \
    crun \
    iptables \
    nftables \
    runc \
    spacecloud-conf \
    spacecloudd \
    tar \
"

RDEPENDS:${PN}-registry = "\
    space-registry \
    spacecloud-conf-registry \
"

RDEPENDS:${PN}-docker = "\
    docker-moby \
    docker-moby-cli \
    spacecloud-conf-docker \
"

RDEPENDS:${PN}-storage = "\
    e2fsprogs-e2fsck \
    e2fsprogs-mke2fs \
    e2fsprogs-resize2fs \
    nfs-utils \
    spacecloud-conf-storage \
    util-linux-sfdisk \
"

RDEPENDS:${PN}-update = "\
    rauc \
    spacecloud-conf-slots \
"

RDEPENDS:${PN}-debug = "\
    edac-utils \
    ethtool \
    iperf3 \
    iproute2 \
    iproute2-tc \
    kernel-modules \
    libgpiod-tools \
    pciutils \
    perf \
    procps \
    rt-tests \
    spacectl \
    strace \
    stress-ng \
    tcpdump \
    util-linux \
"
