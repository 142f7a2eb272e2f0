//! One decision: filter, score, choose, take. And the same once more as a table, for people.

use super::classic;
use super::explain::{Explanation, Refusal, Row, Verdict, left_out, rule};
use super::index::{Index, UNFIT};
use super::node::Node;
use super::pending::change;
use super::resources::Request;
use super::scorer::{Question, Scorer};
use super::strategy::{PolicyNumber, Strategy};
use super::whole::{Placement, Pool};
use std::collections::BTreeMap;

/// A filter of the caller's: the name and the reason for which a node is left out. It sees the node's number.
pub type Filter<'a> = dyn Fn(usize) -> Option<(&'static str, String)> + 'a;

impl Pool {
    /// Decides, takes what the request asks for, and says where.
    ///
    /// # Errors
    /// [`Refusal`] when no node fits, or the request cannot be meant.
    pub fn place(&mut self, request: &Request, strategy: Strategy) -> Result<Placement, Refusal> {
        self.place_under(request, strategy, PolicyNumber::default())
    }

    /// As [`Pool::place`], with a policy of the unit level of its own.
    ///
    /// # Errors
    /// [`Refusal`] when no node fits, or the request cannot be meant.
    pub fn place_under(
        &mut self,
        request: &Request,
        strategy: Strategy,
        policy: PolicyNumber,
    ) -> Result<Placement, Refusal> {
        let asked = self.question(request, strategy, policy)?;
        self.scorer.observe(asked.shape);
        self.decide(&asked)
    }

    /// As [`Pool::place_under`], for a request that was refused before and waits: it has arrived already, and is not
    /// counted once more among what usually comes.
    ///
    /// # Errors
    /// [`Refusal`] when no node fits, or the request cannot be meant.
    pub fn retry(
        &mut self,
        request: &Request,
        strategy: Strategy,
        policy: PolicyNumber,
    ) -> Result<Placement, Refusal> {
        let asked = self.question(request, strategy, policy)?;
        self.decide(&asked)
    }

    fn decide(&mut self, asked: &Question) -> Result<Placement, Refusal> {
        let Self { nodes, log, indexes, scorer, .. } = self;
        let index = indexes.get(*asked, nodes.len());
        index.refresh(nodes, log, scorer.epoch(asked.strategy), |node| scorer.score(node, asked));
        let chosen = scorer.choose(index, nodes, asked);
        self.take(asked, chosen)
    }

    /// As [`Pool::place_under`], among the nodes that the caller's own filter leaves: ports, labels, affinity and
    /// whatever else the pool does not know. Looks at every node.
    ///
    /// # Errors
    /// [`Refusal`] when no node fits, or the request cannot be meant.
    pub fn place_where(
        &mut self,
        request: &Request,
        strategy: Strategy,
        policy: PolicyNumber,
        filter: &Filter<'_>,
    ) -> Result<Placement, Refusal> {
        let asked = self.question(request, strategy, policy)?;
        self.scorer.observe(asked.shape);
        let index = self.index_where(&asked, filter);
        let chosen = self.scorer.choose(&index, &self.nodes, &asked);
        self.take(&asked, chosen)
    }

    /// The table of the decision that the same call of [`Pool::place_where`] would make now. Changes nothing but
    /// what the strategies have learned to expect.
    ///
    /// # Errors
    /// [`Refusal::Meaningless`].
    pub fn explain(
        &mut self,
        request: &Request,
        strategy: Strategy,
        policy: PolicyNumber,
        filter: &Filter<'_>,
    ) -> Result<Explanation, Refusal> {
        let asked = self.question(request, strategy, policy)?;
        let index = self.index_where(&asked, filter);
        // Its own seed and cursor, so that asking does not change the answer.
        let chosen = self.scorer.clone().choose(&index, &self.nodes, &asked);
        let course = self.scorer.course(&index, &self.nodes, &asked);
        let verdict = |number: u32, node: &Node| {
            if let Some((filter, reason)) = filter(number as usize) {
                return Verdict::filtered(filter, reason);
            }
            if let Some(shortage) = node.shortage(&asked.shape) {
                return Verdict::short(shortage, node, &asked.shape);
            }
            let verdict = scored(&self.scorer, node, &asked);
            match (strategy, &verdict) {
                (Strategy::Multilevel, Verdict::Scored { .. }) => {
                    left_out(&course, number).unwrap_or(verdict)
                }
                _ => verdict,
            }
        };
        let rows = (0_u32..).zip(&self.nodes).filter(|(_, node)| !node.is_vacant());
        let rows = rows.map(|(number, node)| Row { node: node.name.clone(), verdict: verdict(number, node) });
        let alarm = chosen.is_some_and(|(_, alarm)| alarm).then(|| {
            let most = self.scorer.policy(policy).max_gpu.unwrap_or_default();
            format!("afterwards no node keeps {most} free accelerators")
        });
        Ok(Explanation {
            strategy,
            rows: rows.collect(),
            chosen: chosen.and_then(|(node, _)| self.name(node as usize)).map(str::to_owned),
            rule: rule(strategy).to_owned(),
            change: chosen.is_none().then(|| change(&self.nodes, &asked.shape)).flatten(),
            alarm,
        })
    }

    fn question(
        &mut self,
        request: &Request,
        strategy: Strategy,
        policy: PolicyNumber,
    ) -> Result<Question, Refusal> {
        let shape = self.shape(request)?;
        self.scorer.prepare(strategy, self.models.len(), &self.sizes);
        // Only one strategy reads the policy; the others need not be told apart by it.
        let policy = if strategy == Strategy::Multilevel { policy } else { PolicyNumber::default() };
        Ok(Question { strategy, policy, shape })
    }

    fn index_where(&self, asked: &Question, filter: &Filter<'_>) -> Index {
        let scores = self.nodes.iter().enumerate().map(|(number, node)| {
            if filter(number).is_some() { UNFIT } else { self.scorer.score(node, asked) }
        });
        Index::of(scores.collect())
    }

    fn take(&mut self, asked: &Question, chosen: Option<(u32, bool)>) -> Result<Placement, Refusal> {
        let chosen =
            chosen.and_then(|(number, alarm)| Some((number, alarm, self.nodes.get(number as usize)?)));
        let Some((number, alarm, node)) = chosen else {
            return Err(Refusal::nothing_fits(&self.nodes, &asked.shape));
        };
        let accelerators = self.scorer.devices(node, asked);
        self.scorer.placed(number, asked.strategy);
        let ticket = self.hold(number, asked.shape, accelerators.clone());
        Ok(Placement { ticket, node: number as usize, accelerators, alarm })
    }
}

/// The score of a node that has room, with its parts.
fn scored(scorer: &Scorer, node: &Node, asked: &Question) -> Verdict {
    let score = scorer.score(node, asked);
    let parts = match asked.strategy {
        Strategy::Multilevel => match scorer.unit_score(node, asked) {
            Err(left) => return left.into(),
            Ok((balance, unit)) => BTreeMap::from([
                ("balance", balance),
                ("cpu", unit.cpu),
                ("memory", unit.memory),
                ("disk", unit.disk),
                ("gpu", unit.gpu),
                ("match", unit.matching),
            ]),
        },
        Strategy::Spread | Strategy::Binpack => {
            BTreeMap::from([("allocated", classic::allocated(node, &asked.shape))])
        }
        Strategy::Fgd | Strategy::Spacecloud => {
            let worth = scorer.worth(node, asked.strategy);
            BTreeMap::from([("worth", worth), ("free", node.usable as f64)])
        }
        Strategy::BestFit | Strategy::DotProduct | Strategy::GpuPacking | Strategy::GpuClustering => {
            BTreeMap::from([("cpu", node.free.cpu as f64), ("free", node.usable as f64)])
        }
        Strategy::Tiling | Strategy::Random => BTreeMap::new(),
    };
    Verdict::Scored { score, parts }
}
