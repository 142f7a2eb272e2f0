//! Instances that are half made when the agent dies, on a module so slow that containerd gives up tidying after it.

use crate::rig::{PATIENCE, Rig};
use spacesim::{cluster::all_ready, wait_until, within};

/// runc that waits before it makes anything, or hangs when it is to remove something, while a file is there.
const SLUGGISH: &str = "#!/bin/sh\n\
    case \" $* \" in\n\
    *' create '*) while [ -e /run/no-create ]; do sleep 0.1; done;;\n\
    *' delete '*) [ ! -e /run/no-delete ] || exec sleep 3600;;\n\
    esac\n\
    exec /usr/bin/runc \"$@\"\n";
const PROGRAM: &str = "/usr/local/sbin/sluggish-runc";
const APP: &str = "[[app]]\nname = 'half'\nimage = 'registry.spacecloud:5000/demo/web:1'\n\
    placement = { modules = ['module-2'] }\nenv = { RUN = '0' }\ngrace = '1s'\n";
/// What containerd says when it tidies up, and when it has given that up.
const TIDIES: &str = "cleaning up dead shim";
const GIVES_UP: &str = "failed to clean up after shim disconnected";
const BUNDLES: &str = "/run/containerd/io.containerd.runtime.v2.task/spacecloud";

#[test]
fn an_instance_that_was_half_made_when_the_agent_died_is_made_anew() {
    let configuration = format!("[agent]\noci_runtime = '{PROGRAM}'\n");
    let rig = Rig::with(|_| {}, &configuration, |identity| identity.file(PROGRAM, 0o755, SLUGGISH));
    let module = rig.chassis.module(2).unwrap();
    let run = |command: &str| module.run(command, within(PATIENCE)).unwrap();
    let count = |what: &str| run(&format!("{{ {what}; }} | wc -l")).trim().parse::<usize>().unwrap();
    let told = |words: &str| module.console().unwrap().matches(words).count();
    for (hangs, goes_on, then) in
        [("create delete", false, GIVES_UP), ("create delete", true, GIVES_UP), ("create", false, TIDIES)]
    {
        let before = told(then);
        hangs.split(' ').for_each(|verb| drop(run(&format!("touch /run/no-{verb}"))));
        rig.insist(|cluster| cluster.apply(APP).map(drop));
        let making = || count("pgrep -f '[s]luggish-runc .* create'") != 0;
        wait_until("it is being made", within(PATIENCE), making).unwrap();
        rig.kill_daemon(2);
        if goes_on {
            // Now a container is made that nobody has asked for any longer.
            run("rm /run/no-create");
        }
        wait_until(&format!("containerd says: {then}"), within(PATIENCE), || told(then) > before).unwrap();
        run("rm -f /run/no-create /run/no-delete");
        rig.wait("it runs", |s| all_ready(s, 1));
        rig.runs_what_it_says();
        assert_eq!(count("pgrep -f '[c]ontainerd-shim'"), 1);
        assert_eq!(count("pgrep -f '[s]luggish-runc'; pgrep -x sleep"), 0);
        rig.insist(|cluster| cluster.delete(vec!["half".to_owned()]));
        rig.wait("it is gone", |s| s.instances.is_empty());
        rig.runs_what_it_says();
        assert_eq!(count(&format!("ls {BUNDLES} /run/containerd/runc/spacecloud | grep half")), 0);
        rig.say(&format!("no {hangs} when the agent died; the create goes on: {goes_on}"));
    }

    // What is made before the container is: nobody asks for it again.
    run("touch /run/spacecloud/netns/ghost-1-1 && unshare --net=/run/spacecloud/netns/ghost-1-1 true");
    run("ctr -n spacecloud snapshots prepare ghost-1-1");
    let config = "{\"cniVersion\":\"1.0.0\",\"name\":\"spacecloud\",\"type\":\"portmap\",\"snat\":true,\
        \"capabilities\":{\"portMappings\":true},\"runtimeConfig\":{\"portMappings\":[{\"hostPort\":18085,\
        \"containerPort\":80,\"protocol\":\"tcp\"}]},\"prevResult\":{\"cniVersion\":\"1.0.0\",\
        \"interfaces\":[{\"name\":\"eth0\",\"sandbox\":\"/run/spacecloud/netns/ghost-1-1\"}],\
        \"ips\":[{\"address\":\"10.45.2.200/24\",\"interface\":0}]}}";
    run(&format!(
        "echo '{config}' | CNI_COMMAND=ADD CNI_CONTAINERID=ghost-1-1 CNI_IFNAME=eth0 CNI_PATH=/usr/lib/cni \
         CNI_NETNS=/run/spacecloud/netns/ghost-1-1 /usr/lib/cni/portmap"
    ));
    let ghosts = "ls /run/spacecloud/netns | grep ghost; ctr -n spacecloud snapshots ls | grep ghost; \
        iptables-save -t nat | grep 18085; true";
    assert!(count(ghosts) >= 3, "{}", run(ghosts));
    rig.kill_daemon(2);
    wait_until("what was half made is gone", within(PATIENCE), || count(ghosts) == 0)
        .unwrap_or_else(|error| panic!("{error}: {}", run(ghosts)));
}
