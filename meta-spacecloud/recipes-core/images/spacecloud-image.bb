SUMMARY = "The flight image of a spacecloud module"
DESCRIPTION = "Real-time kernel, systemd, containerd, Docker in bridge mode, CNI, criu, nftables, spacecloudd and space-registry. \
No shell login, no package manager, no compiler: a module is operated through the cluster."

require spacecloud-image.inc

inherit extrausers

# No password opens a session, not even on the serial console.
EXTRA_USERS_PARAMS = "\
    usermod --lock --expiredate 1 --shell /sbin/nologin root; \
"

# No login prompt either.
mask_getty() {
    for unit in getty@.service serial-getty@.service console-getty.service; do
        ln -sf /dev/null ${IMAGE_ROOTFS}${sysconfdir}/systemd/system/$unit
    done
}
ROOTFS_POSTPROCESS_COMMAND += "mask_getty"

# Nobody is there to answer a maintenance shell, and the watchdog is fed while it waits: a boot that ends in it is given
# up, which uses up a try of a slot on trial.
restart_on_emergency() {
    for unit in emergency rescue; do
        install -d ${IMAGE_ROOTFS}${sysconfdir}/systemd/system/$unit.service.d
        printf '[Service]\nExecStartPre=\nExecStart=\nExecStart=/bin/sh -c "sleep 10; systemctl --force reboot"\n' \
            > ${IMAGE_ROOTFS}${sysconfdir}/systemd/system/$unit.service.d/spacecloud.conf
    done
}
ROOTFS_POSTPROCESS_COMMAND += "restart_on_emergency"

# What an attacker would look for first must not be there, whoever recommends it. Python is: criu depends on it.
PACKAGE_EXCLUDE:append = " binutils dropbear gcc openssh-sshd opkg"
BAD_RECOMMENDATIONS:append = " gdb perl"
