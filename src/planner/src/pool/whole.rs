use super::index::{Indexes, Log};
use super::node::Node;
use super::resources::{AcceleratorState, Amounts, NodeSpec, PoolError, Request, WHOLE};
use super::scorer::{Question, Scorer};
use super::shape::Shape;
use super::strategy::PolicyNumber;
use super::unit::{PolicyError, UnitPolicy};
use std::collections::{BTreeMap, BTreeSet};

/// One placed instance, until it is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Where an instance was placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// What to release it by.
    pub ticket: Ticket,
    /// The node, by its number in the order of registration.
    pub node: usize,
    /// The accelerators that it holds, by number.
    pub accelerators: Vec<u16>,
    /// The max-GPU reservation cannot be kept: no node has as many free accelerators left as the policy wants.
    pub alarm: bool,
}

#[derive(Debug, Clone)]
struct Held {
    node: u32,
    shape: Shape,
    devices: Vec<u16>,
}

/// What the whole pool has and has given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Thousandths of accelerators.
    pub accelerator_capacity: u64,
    /// Thousandths of accelerators that are given away.
    pub accelerator_allocated: u64,
    /// Placed instances.
    pub instances: usize,
}

/// Nodes and what is placed on them. The same calls in the same order always give the same answers.
#[derive(Debug, Clone)]
pub struct Pool {
    pub(crate) nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    /// Numbers of nodes that left, for the next ones that join.
    vacant: BTreeSet<usize>,
    pub(crate) models: Vec<String>,
    /// How many accelerators nodes have, or had.
    pub(crate) sizes: BTreeSet<u16>,
    held: BTreeMap<u64, Held>,
    next_ticket: u64,
    pub(crate) log: Log,
    pub(crate) indexes: Indexes<Question>,
    pub(crate) scorer: Scorer,
    allocated: u64,
}

impl Pool {
    /// An empty pool. `seed` is what the strategy `random` draws from.
    pub fn new(seed: u64) -> Self {
        Self {
            nodes: Vec::new(),
            names: BTreeMap::new(),
            vacant: BTreeSet::new(),
            models: Vec::new(),
            sizes: BTreeSet::new(),
            held: BTreeMap::new(),
            next_ticket: 0,
            log: Log::default(),
            indexes: Indexes::new(),
            scorer: Scorer::new(seed),
            allocated: 0,
        }
    }

    /// Registers a node and returns its number, which is that of a node that left if there is one.
    ///
    /// # Errors
    /// [`PoolError::Nameless`], [`PoolError::Duplicate`], [`PoolError::TooManyModels`].
    pub fn add(&mut self, spec: &NodeSpec) -> Result<usize, PoolError> {
        if spec.name.is_empty() {
            return Err(PoolError::Nameless);
        }
        if self.names.contains_key(&spec.name) {
            return Err(PoolError::Duplicate(spec.name.clone()));
        }
        let model = self.model_bit(spec)?;
        let node = Node::new(spec, model);
        let number = self.vacant.pop_first().unwrap_or(self.nodes.len());
        match self.nodes.get_mut(number) {
            Some(place) => *place = node,
            None => self.nodes.push(node),
        }
        self.names.insert(spec.name.clone(), number);
        self.sizes.insert(spec.accelerators);
        self.scorer.largest.see(spec);
        self.touch(number);
        Ok(number)
    }

    fn model_bit(&mut self, spec: &NodeSpec) -> Result<u64, PoolError> {
        let at = match self.models.iter().position(|model| *model == spec.model) {
            Some(at) => at,
            None if self.models.len() == 64 => return Err(PoolError::TooManyModels(spec.name.clone())),
            None => {
                self.models.push(spec.model.clone());
                self.models.len() - 1
            }
        };
        Ok(1 << at)
    }

    /// Takes a node out of the pool and returns who held something there: they are released, and have to run
    /// elsewhere. Its number goes to the next node that joins.
    ///
    /// # Errors
    /// [`PoolError::NoNode`].
    pub fn remove(&mut self, name: &str) -> Result<Vec<Ticket>, PoolError> {
        let number = self.number(name)?;
        let here = self.held.iter().filter(|(_, held)| held.node as usize == number);
        let lost: Vec<Ticket> = here.map(|(ticket, _)| Ticket(*ticket)).collect();
        lost.iter().try_for_each(|ticket| self.release(*ticket))?;
        if let Some(node) = self.nodes.get_mut(number) {
            *node = Node::vacant();
        }
        self.names.remove(name);
        self.vacant.insert(number);
        self.touch(number);
        Ok(lost)
    }

    /// Lets a node take nothing new, or opens it again. A closed node's instances stay until they are released.
    ///
    /// # Errors
    /// [`PoolError::NoNode`].
    pub fn close(&mut self, name: &str, closed: bool) -> Result<(), PoolError> {
        let number = self.number(name)?;
        if let Some(node) = self.nodes.get_mut(number) {
            node.closed = closed;
        }
        self.touch(number);
        Ok(())
    }

    /// Sets one accelerator to maintenance, or takes it out again, and returns who holds a part of it: those must
    /// move. It is given to nobody meanwhile; the node's other accelerators are.
    ///
    /// # Errors
    /// [`PoolError::NoNode`], [`PoolError::NoAccelerator`].
    pub fn maintain(&mut self, name: &str, number: u16, maintenance: bool) -> Result<Vec<Ticket>, PoolError> {
        let at = self.number(name)?;
        let found = self.nodes.get_mut(at).is_some_and(|node| node.maintain(number, maintenance));
        if !found {
            return Err(PoolError::NoAccelerator { node: name.to_owned(), number });
        }
        self.touch(at);
        let holds = |held: &&Held| held.node as usize == at && held.devices.contains(&number);
        Ok(self.held.iter().filter(|(_, held)| holds(held)).map(|(ticket, _)| Ticket(*ticket)).collect())
    }

    /// The number of a node.
    ///
    /// # Errors
    /// [`PoolError::NoNode`].
    pub fn number(&self, name: &str) -> Result<usize, PoolError> {
        self.names.get(name).copied().ok_or_else(|| PoolError::NoNode(name.to_owned()))
    }

    /// The name of a node.
    pub fn name(&self, node: usize) -> Option<&str> {
        self.nodes.get(node).filter(|node| !node.is_vacant()).map(|node| node.name.as_str())
    }

    /// What a node has left beside accelerators.
    pub fn free(&self, node: usize) -> Option<Amounts> {
        self.nodes.get(node).map(|node| node.free)
    }

    /// The state of each accelerator of a node, and how many thousandths of it can be given away.
    pub fn accelerators(&self, node: usize) -> Vec<(AcceleratorState, u16)> {
        let devices = self.nodes.get(node).map(|node| node.devices.as_slice()).unwrap_or_default();
        devices.iter().map(|device| (device.state(), device.usable())).collect()
    }

    /// How many nodes there are, closed ones too.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// What the whole pool has and has given away.
    pub fn totals(&self) -> Totals {
        Totals {
            accelerator_capacity: self.nodes.iter().map(Node::accelerator_capacity).sum(),
            accelerator_allocated: self.allocated,
            instances: self.held.len(),
        }
    }

    /// A policy of the unit level, to be named with the requests that it is for. The number 0, the default, is the
    /// policy of [`UnitPolicy::default`].
    ///
    /// # Errors
    /// What [`UnitPolicy::check`] refuses, or that there are too many different ones.
    pub fn policy(&mut self, policy: UnitPolicy) -> Result<PolicyNumber, PolicyError> {
        policy.check()?;
        self.scorer.policy_number(policy).ok_or_else(|| PolicyError {
            key: "policy".to_owned(),
            reason: "a pool remembers at most 65,536 different policies".to_owned(),
        })
    }

    /// Tells the strategies that weigh usual tasks which ones to expect, instead of learning it from what arrives.
    ///
    /// # Errors
    /// [`PoolError::Share`].
    pub fn expect<'a>(&mut self, requests: impl Iterator<Item = &'a Request>) -> Result<(), PoolError> {
        let shapes = requests.map(|request| self.shape(request)).collect::<Result<Vec<_>, _>>()?;
        self.scorer.expect(shapes);
        Ok(())
    }

    /// Notes a request among those that usually come, without placing it.
    ///
    /// # Errors
    /// [`PoolError::Share`].
    pub fn learn(&mut self, request: &Request) -> Result<(), PoolError> {
        let shape = self.shape(request)?;
        self.scorer.observe(shape);
        Ok(())
    }

    /// Takes over an instance that runs already, on the accelerators that it holds.
    ///
    /// # Errors
    /// [`PoolError::NoNode`], [`PoolError::NoAccelerator`], and [`PoolError::Taken`] when not all of it is free:
    /// nothing is taken then.
    pub fn adopt(
        &mut self,
        name: &str,
        request: &Request,
        accelerators: &[u16],
    ) -> Result<Ticket, PoolError> {
        let (shape, at) = (self.shape(request)?, self.number(name)?);
        let taken = || PoolError::Taken(name.to_owned());
        let node = self.nodes.get(at).ok_or_else(taken)?;
        let mut unique = accelerators.to_vec();
        unique.sort_unstable();
        unique.dedup();
        if unique.len() != usize::from(request.accelerators) || unique.len() != accelerators.len() {
            return Err(taken());
        }
        for number in accelerators {
            let device = node.devices.get(usize::from(*number));
            let missing = || PoolError::NoAccelerator { node: name.to_owned(), number: *number };
            // One that is in maintenance may still be held by what ran there before.
            if device.ok_or_else(missing)?.free() < shape.milli {
                return Err(taken());
            }
        }
        if !node.free.holds(&shape.amounts) {
            return Err(taken());
        }
        Ok(self.hold(u32::try_from(at).unwrap_or(u32::MAX), shape, accelerators.to_vec()))
    }

    /// Takes what was decided.
    pub(crate) fn hold(&mut self, node: u32, shape: Shape, devices: Vec<u16>) -> Ticket {
        if let Some(state) = self.nodes.get_mut(node as usize) {
            state.take(&shape, &devices);
        }
        self.allocated += shape.accelerator_milli();
        self.touch(node as usize);
        self.next_ticket += 1;
        self.held.insert(self.next_ticket, Held { node, shape, devices });
        Ticket(self.next_ticket)
    }

    /// Gives back all that an instance holds.
    ///
    /// # Errors
    /// [`PoolError::NoInstance`] when it was released before.
    pub fn release(&mut self, ticket: Ticket) -> Result<(), PoolError> {
        let held = self.held.remove(&ticket.0).ok_or(PoolError::NoInstance(ticket.0))?;
        if let Some(node) = self.nodes.get_mut(held.node as usize) {
            node.give(&held.shape, &held.devices);
        }
        self.allocated = self.allocated.saturating_sub(held.shape.accelerator_milli());
        self.touch(held.node as usize);
        Ok(())
    }

    pub(crate) fn touch(&mut self, number: usize) {
        let step = self.log.push(u32::try_from(number).unwrap_or(u32::MAX), self.nodes.len());
        if let Some(node) = self.nodes.get_mut(number) {
            node.changed = step;
        }
    }

    pub(crate) fn shape(&self, request: &Request) -> Result<Shape, PoolError> {
        if request.accelerators > 0 && !(1..=WHOLE).contains(&request.milli) {
            return Err(PoolError::Share(request.milli));
        }
        let bit = |model: &String| self.models.iter().position(|known| known == model).map(|at| 1_u64 << at);
        let models = match (request.accelerators, request.models.is_empty()) {
            (0, _) | (_, true) => u64::MAX,
            // A model that no node has adds no bit; without any bit no node fits.
            _ => request.models.iter().filter_map(bit).fold(0, |bits, bit| bits | bit),
        };
        let milli = if request.accelerators == 0 { 0 } else { request.milli };
        Ok(Shape { amounts: request.amounts, accelerators: request.accelerators, milli, models })
    }
}
