# The kernel features of a module, one by one; see kernel-config/ beside the layer.
#
# legacy-tables is left out: kernels from 6.17 on do not offer the tables of iptables-legacy with PREEMPT_RT.
SPACECLOUD_KERNEL_FEATURES ?= "\
    realtime init containers docker-bridge cni-services checkpoint-restore verity flight hardening virtio nvme \
    watchdog-edac uefi-pcie accelerators nfs \
"
SPACECLOUD_KERNEL_FEATURES:append:x86-64 = " x86-64"
SPACECLOUD_KERNEL_FEATURES:append:aarch64 = " arm64"

FILESEXTRAPATHS:prepend := "${@bb.utils.contains('DISTRO_FEATURES', 'spacecloud', '${SPACECLOUD_TOP}/kernel-config:', '', d)}"

def spacecloud_kernel_features(d):
    if not bb.utils.contains("DISTRO_FEATURES", "spacecloud", True, False, d):
        return ""
    return "".join(" file://%s.scc file://%s.cfg" % (name, name) for name in d.getVar("SPACECLOUD_KERNEL_FEATURES").split())

# nooelint: oelint.vars.inconspaces,oelint.vars.listappend - the function's text begins with a blank
SRC_URI:append = "${@spacecloud_kernel_features(d)}"

COMPATIBLE_MACHINE:spacevpx = "${MACHINE}"
KMACHINE:spacevpx-x86-64 ?= "common-pc-64"
KMACHINE:spacevpx-arm64 ?= "qemuarm64"
