//! Docker beside us: it takes its images from our registry, and serves in bridge mode.

use super::{IMAGE, Note, PATIENCE, Scenario, failed};
use crate::{BackplaneKind, SimError, Times, wait_until, within};

impl Scenario<'_> {
    /// Docker pulls from our registry too, and serves in bridge mode.
    pub(super) fn docker(&mut self) -> Result<(), SimError> {
        if self.chassis.backplane() == BackplaneKind::Netns {
            self.unchecked(
                "Docker beside us is started by systemd's socket unit, which a namespace does not run",
            );
            return Ok(());
        }
        (self.note)(Note::Step("Docker on module-2 runs the same image in bridge mode"));
        let module = self.chassis.module(2)?;
        let run = format!("docker run -d --name web -p 18080:8080 {IMAGE}");
        module.run(&run, within(PATIENCE.s()))?;
        let mode = module.run("docker inspect -f '{{.HostConfig.NetworkMode}}' web", within(60.s()))?;
        let driver = module.run("docker network inspect -f '{{.Driver}}' bridge", within(60.s()))?;
        if !["bridge", "default"].contains(&mode.trim()) || driver.trim() != "bridge" {
            return Err(failed(format!(
                "Docker runs it in mode {mode:?} by driver {driver:?}, not in bridge mode"
            )));
        }
        let ask = "busybox wget -q -T 20 -O - http://10.44.0.2:18080/";
        let asker = self.chassis.module(1)?;
        let mut answer = String::new();
        wait_until("the container answers on its published port", within(60.s()), || {
            answer = asker.run(ask, within(30.s())).unwrap_or_default();
            answer.contains("module=")
        })?;
        // And the other way: what Docker pushes, the registry serves.
        let copy = IMAGE.replace("/web:", "/copy:");
        let push = format!(
            "docker tag {IMAGE} {copy} && docker push -q {copy} && docker rmi {copy} && docker pull -q {copy}"
        );
        module.run(&push, within(PATIENCE.s()))?;
        module.run("docker rm -f web && systemctl stop docker.socket docker", within(120.s()))?;
        self.checked(format!(
            "Docker pulled it from our registry; module-1 got \"{}\" from its published port",
            answer.trim()
        ));
        Ok(())
    }
}
