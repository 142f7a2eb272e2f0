# An image that goes into a root slot: erofs with its dm-verity tree behind it, and a disk with two such slots.
#
# "IMAGE.erofs-lz4hc.verity" is the file system, padded to whole blocks, followed by the hash tree.
# "IMAGE.erofs-lz4hc.verity.env" has what a boot entry is made of: blocks, root, salt, arguments, version.
# Both are a function of the file system alone: the salt is its digest, so the build stays reproducible.

SPACECLOUD_BOOTSLOT = "${SPACECLOUD_TOP}/meta-spacecloud/recipes-core/spacecloud-conf/files/bootslot"
SPACECLOUD_CONSOLE ??= "ttyS0,115200"
# fsck and growth belong to the data partition; the clock of a module is set by its mission.
# The kernel feeds a watchdog that the firmware has started, but only for as long as systemd may take to be there.
SPACECLOUD_KERNEL_ARGUMENTS ?= "console=${SPACECLOUD_CONSOLE} panic=10 watchdog.open_timeout=120 systemd.gpt_auto=no quiet"

CONVERSIONTYPES:append = " verity"
CONVERSION_DEPENDS_verity = "cryptsetup-native"
CONVERSION_CMD:verity = "slot_verity ${IMAGE_NAME}.${type}"

WKS_FILE:spacevpx = "spacevpx.wks.in"
IMAGE_FSTYPES:spacevpx = "erofs-lz4hc.verity wic.zst wic.bmap"
# nooelint: oelint.vars.overrideappend - as above
IMAGE_TYPEDEP:wic:append:spacevpx = " erofs-lz4hc.verity"
# nooelint: oelint.vars.overrideappend - it adds to what image_types sets
EXTRA_IMAGECMD:erofs-lz4hc:append = " -T ${REPRODUCIBLE_TIMESTAMP_ROOTFS} -U 5ace0000-0000-4000-8000-000000000000"

# For files/wic/spacevpx.wks.in: the files of this build, whatever the image is called.
SPACECLOUD_SLOT_DIR = "${WORKDIR}/slot"
IMAGE_BOOT_FILES:spacevpx = "\
    systemd-boot${EFI_ARCH}.efi;EFI/BOOT/${SPACECLOUD_EFI_NAME} \
    ${KERNEL_IMAGETYPE};slots/a/linux \
    ${SPACECLOUD_SLOT_DIR}/loader.conf;loader/loader.conf \
    ${SPACECLOUD_SLOT_DIR}/slot-a.conf;loader/entries/slot-a.conf \
"
SPACECLOUD_EFI_NAME = "BOOT${@d.getVar('EFI_ARCH').upper()}.EFI"
WICVARS:append = " SPACECLOUD_SLOT_DIR SPACECLOUD_SLOT_SIZE SPACECLOUD_DATA_SIZE"
do_image_wic[depends] += "${@'systemd-boot:do_deploy virtual/kernel:do_deploy dosfstools-native:do_populate_sysroot mtools-native:do_populate_sysroot' if bb.utils.contains('MACHINE_FEATURES', 'efi', True, False, d) and 'spacevpx' in d.getVar('MACHINEOVERRIDES').split(':') else ''}"

# nooelint: oelint.file.requirenotfound - of OE-core
require conf/image-uefi.conf

slot_verity() {
    image=$1
    size=$(stat -L -c %s $image)
    blocks=$(expr \( $size + 4095 \) / 4096)
    cp -L $image $image.verity
    truncate -s $(expr $blocks \* 4096) $image.verity
    salt=$(sha256sum $image.verity | cut -d ' ' -f 1)
    root=$(veritysetup format --no-superblock --hash=sha256 --data-block-size=4096 --hash-block-size=4096 \
        --data-blocks=$blocks --hash-offset=$(expr $blocks \* 4096) --salt=$salt $image.verity $image.verity |
        sed -n 's/^Root hash:[[:space:]]*//p')
    [ -n "$root" ] || bbfatal "veritysetup printed no root hash for $image"
    printf "blocks=%s\\nroot=%s\\nsalt=%s\\ninitrd=0\\nversion='%s'\\narguments='%s'\\n" \
        $blocks $root $salt "${DISTRO_VERSION}" "${SPACECLOUD_KERNEL_ARGUMENTS}" > $image.verity.env
    # Where the bundle finds it: under the image's name without the date.
    ln -sf $image.verity.env ${IMAGE_LINK_NAME}.erofs-lz4hc.verity.env

    mkdir -p ${SPACECLOUD_SLOT_DIR}
    cp $image.verity ${SPACECLOUD_SLOT_DIR}/rootfs.img
    sh ${SPACECLOUD_BOOTSLOT} entry a $image.verity.env > ${SPACECLOUD_SLOT_DIR}/slot-a.conf
    printf 'timeout 0\neditor no\nauto-entries no\n' > ${SPACECLOUD_SLOT_DIR}/loader.conf
}
slot_verity[vardepsexclude] = "IMAGE_NAME"
# The script is run where it lies: the entry is made anew when it changes.
# nooelint: oelint.vars.mispell.unknown - it is the task of an image's type
do_image_erofs_lz4hc[file-checksums] += "${SPACECLOUD_BOOTSLOT}:True"
