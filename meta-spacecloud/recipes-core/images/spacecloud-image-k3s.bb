SUMMARY = "K3s on the spacecloud base"
DESCRIPTION = "The same kernel, root and registry, with K3s in the place of spacecloudd's agent: for those who want \
Kubernetes. Images come from the chassis' own registry."

require spacecloud-image.inc

SPACECLOUD_ROLES = "\
    k3s-agent \
    k3s-server \
    packagegroup-spacecloud-docker \
    packagegroup-spacecloud-registry \
    packagegroup-spacecloud-storage \
    spacecloud-conf-module \
    spacecloud-k3s-conf \
"
