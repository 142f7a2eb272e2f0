SUMMARY = "The operator's command for a spacecloud chassis"
DESCRIPTION = "Applies apps, shows modules and instances, drains and explains."

require spacecloud.inc

CARGO_MEMBER = "cli"

# An image has no qemu-storage-daemon, whose network block devices two of these write to, and not the layer's files.
RUST_TEST_ARGS = "\
    --skip a_device_that_vanishes_is_named_with_how_far_it_came \
    --skip a_network_block_device_is_flashed_and_read_back \
    --skip a_slot_that_never_joins_has_fallen_back_before_the_limit \
"
RDEPENDS:${PN}-ptest:append:class-target = " \
    skopeo util-linux-losetup util-linux-mount util-linux-script util-linux-sfdisk util-linux-umount \
"
