# nooelint: oelint.var.mandatoryvar.SRC_URI - everything in it comes from other recipes
SUMMARY = "A signed update of a module's root slot"
DESCRIPTION = "RAUC bundle with the flight image's verity root file system, its kernel and what the boot entry is \
made of. Signed by the mission's key; refused by other machines."
HOMEPAGE = "https://spacecloud.example"
BUGTRACKER = "https://spacecloud.example/issues"
LICENSE = "MIT"

inherit bundle features_check

REQUIRED_DISTRO_FEATURES = "rauc spacecloud"
COMPATIBLE_MACHINE = "^$"
COMPATIBLE_MACHINE:spacevpx = "."

SPACECLOUD_BUNDLE_IMAGE ?= "spacecloud-image"

RAUC_BUNDLE_FORMAT = "verity"
RAUC_BUNDLE_COMPATIBLE = "${MACHINE}"
RAUC_BUNDLE_VERSION = "${DISTRO_VERSION}"
RAUC_BUNDLE_SLOTS = "rootfs"
RAUC_SLOT_rootfs = "${SPACECLOUD_BUNDLE_IMAGE}"
RAUC_SLOT_rootfs[fstype] = "erofs-lz4hc.verity"
RAUC_SLOT_rootfs[rename] = "rootfs.img"

# The kernel and the root hash go along: the post-install handler puts both on the ESP.
RAUC_BUNDLE_EXTRA_DEPENDS = "virtual/kernel ${SPACECLOUD_BUNDLE_IMAGE}:do_image_complete"

python do_configure:append() {
    import shutil
    deploy = d.getVar("DEPLOY_DIR_IMAGE")
    bundle = d.getVar("BUNDLE_DIR")
    image = d.expand("${SPACECLOUD_BUNDLE_IMAGE}${IMAGE_MACHINE_SUFFIX}${IMAGE_NAME_SUFFIX}.erofs-lz4hc.verity.env")
    shutil.copy(os.path.join(deploy, image), os.path.join(bundle, "slot.env"))
    shutil.copy(os.path.join(deploy, d.getVar("KERNEL_IMAGETYPE")), os.path.join(bundle, "linux"))
}
