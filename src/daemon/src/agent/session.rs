//! One connection to the server, from the hello to its end.

use super::{
    describe, instances::Instances, is_refusal, joining, logs, prefetch::Prefetch, services::Services,
    update::Updates, volumes::VolumeWatch,
};
use crate::config::Config;
use anyhow::{Context, bail};
use api::{
    from_desired, from_erase, from_services, to_observed, to_root, to_volumes,
    v1::{self, FromAgent, Heartbeat, Hello, agents_client::AgentsClient, from_agent, to_agent},
};
use model::{Name, Span, Timing};
use runtime::{boot_clock, set_routes};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Heartbeats under way; more than a lease's worth is of no use.
const WINDOW: usize = 64;
/// Between two looks at the slots of the accelerators.
const LOOK: Duration = Duration::from_secs(2);

/// What outlives a session.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    /// Where other modules fetch processes that move live.
    pub(super) live: &'a str,
    pub(super) instances: &'a Arc<Instances>,
    pub(super) services: &'a Services,
    pub(super) prefetch: &'a Prefetch,
    pub(super) updates: &'a Arc<Updates>,
    pub(super) volumes: &'a VolumeWatch,
}

struct Session<'a> {
    module: &'a Name,
    parts: Parts<'a>,
    out: mpsc::Sender<FromAgent>,
    timing: Timing,
    /// (sequence, sent at) of heartbeats that are not yet acknowledged.
    sent: VecDeque<(u64, u64)>,
    sequence: u64,
    taken: u64,
    peers: Vec<v1::Peer>,
}

/// Ends with an error, always: the connection broke, or the lease ran out.
pub(super) async fn run(config: &Config, module: &Name, parts: Parts<'_>) -> anyhow::Result<()> {
    let Parts { live, instances, services, updates, .. } = parts;
    let before = boot_clock();
    let channel = match joining::connect(config, module).await {
        Ok(channel) => channel,
        Err(error) => {
            if refused(&error) {
                instances.nobody_decides(before);
            }
            return Err(error);
        }
    };
    services.new_session();
    let (out, outbound) = mpsc::channel(WINDOW);
    let hello_sent = boot_clock();
    let module_now = describe(config, live, updates.root())?;
    let fenced = instances.fenced();
    let described = serde_json::to_string(&module_now)?;
    let observed = instances.observed().iter().map(to_observed).collect();
    out.send(FromAgent {
        message: Some(from_agent::Message::Hello(Hello { module_json: described, observed })),
    })
    .await?;
    let answer = AgentsClient::new(channel).session(ReceiverStream::new(outbound)).await;
    let mut inbound =
        answer.map_err(|s| anyhow::anyhow!("the server refused: {}", s.message()))?.into_inner();
    let sent = VecDeque::from([(0, hello_sent)]);
    let (sequence, taken, peers) = (0, 0, vec![]);
    let timing = config.timing;
    let mut session = Session { module, parts, out, timing, sent, sequence, taken, peers };
    let mut beat = tokio::time::interval(session.timing.heartbeat.duration());
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut heard = tokio::time::Instant::now();
    loop {
        tokio::select! {
            message = inbound.message() => {
                heard = tokio::time::Instant::now();
                let message = message.map_err(|s| anyhow::anyhow!("the connection broke: {}", s.message()))?;
                let Some(message) = message.and_then(|m| m.message) else { bail!("the server closed the connection") };
                let length = session.timing.heartbeat;
                session.take_in(message).await?;
                if session.timing.heartbeat != length {
                    beat = tokio::time::interval(session.timing.heartbeat.duration());
                    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
                }
            }
            _ = beat.tick() => session.heartbeat()?,
            () = instances.changed.notified() => session.heartbeat()?,
            () = updates.changed.notified() => session.tell_root()?,
            _ = look.tick() => {
                // What a module has is said in its hello.
                if config.accelerators().discover() != module_now.capacity.accelerators {
                    bail!("the accelerators have changed");
                }
            }
        }
        if instances.fenced() != fenced {
            bail!("the lease ran out");
        }
        if heard.elapsed() > session.timing.lease.duration() + Duration::from_millis(100) {
            bail!("the server is silent");
        }
    }
}

fn refused(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref().is_some_and(is_refusal))
}

impl Session<'_> {
    fn tell_root(&self) -> anyhow::Result<()> {
        let Some((root, progress)) = self.parts.updates.now() else { return Ok(()) };
        let state = to_root(&root, progress)?;
        match self.out.try_send(FromAgent { message: Some(from_agent::Message::Root(state)) }) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                // Later: what matters is how it is then.
                self.parts.updates.changed.notify_one();
                Ok(())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => bail!("the connection broke"),
        }
    }

    fn heartbeat(&mut self) -> anyhow::Result<()> {
        self.sequence += 1;
        let observed = self.parts.instances.observed().iter().map(to_observed).collect();
        let (sequence, taken, routed) = (self.sequence, self.taken, self.parts.services.routed());
        let volumes_json = to_volumes(&self.parts.volumes.report())?;
        let lease = self.parts.instances.lease_given().0;
        let beat = Heartbeat { sequence, taken, observed, routed, volumes_json, lease };
        // The time before sending: the lease may never be longer than the server believes.
        self.sent.push_back((self.sequence, boot_clock()));
        while self.sent.len() > WINDOW {
            self.sent.pop_front();
        }
        match self.out.try_send(FromAgent { message: Some(from_agent::Message::Heartbeat(beat)) }) {
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => bail!("the connection broke"),
        }
    }

    async fn take_in(&mut self, message: to_agent::Message) -> anyhow::Result<()> {
        match message {
            to_agent::Message::Welcome(welcome) => {
                self.timing = serde_json::from_str(&welcome.timing_json)
                    .context("the server's timing makes no sense")?;
            }
            to_agent::Message::Ack(ack) => self.acknowledged(ack).await,
            to_agent::Message::Order(order) => {
                let desired = order.desired.iter().map(from_desired).collect::<Result<Vec<_>, _>>()?;
                tracing::info!(number = order.number, instances = desired.len(), "order");
                let services = from_services(&order.services_json)?;
                // Before anything is started or stopped: no address may be given to two.
                let reserved = self.parts.instances.runtime.reserve(&services.roaming).await;
                reserved.context("cannot keep the addresses of instances that are elsewhere")?;
                self.parts.instances.order(desired);
                self.parts.services.order(order.number, services);
                self.parts.prefetch.order(&order.images);
                self.parts.volumes.order(from_erase(&order.erase_json)?);
                self.taken = order.number;
                self.heartbeat()?;
            }
            to_agent::Message::Log(wanted) => {
                let path = wanted
                    .instance
                    .parse()
                    .map(|id| self.parts.instances.runtime.log(&id))
                    .context("bad log request")?;
                tokio::spawn(logs::send(path, wanted, self.out.clone()));
            }
            to_agent::Message::Update(wanted) => self.parts.updates.wanted(wanted, self.parts.instances),
        }
        Ok(())
    }

    async fn acknowledged(&mut self, ack: v1::Ack) {
        while self.sent.front().is_some_and(|(sequence, _)| *sequence < ack.sequence) {
            self.sent.pop_front();
        }
        if let Some((sequence, at)) = self.sent.front().copied()
            && sequence == ack.sequence
        {
            let length = Span(self.timing.lease.0.saturating_add(ack.absence));
            self.parts.instances.acknowledged(at, length);
        }
        if ack.peers != self.peers {
            let own = self.module.to_string();
            let routes: Vec<(String, String)> = ack
                .peers
                .iter()
                .filter(|p| !p.address.is_empty() && !is_own(&p.address))
                .map(|p| (p.pods.clone(), p.address.clone()))
                .collect();
            match set_routes(&routes).await {
                Ok(()) => self.peers = ack.peers,
                Err(error) => {
                    tracing::warn!(module = %own, error = %crate::chain(&error), "cannot set the routes")
                }
            }
        }
    }
}

/// An address of this very module.
fn is_own(address: &str) -> bool {
    address.parse::<std::net::IpAddr>().is_ok_and(|ip| std::net::UdpSocket::bind((ip, 0)).is_ok())
}
