//! Amounts of an app changed while its instances run: all of them where they are, or none.

use crate::{
    Refusal,
    core::Core,
    step::{Amounts, Reply},
    usage::{Except, Window, by_module},
};
use model::{App, InstanceId, Name, Resources, Severity};

impl Core {
    pub(crate) fn resize(&mut self, name: &Name, amounts: Amounts) -> Result<Reply, Refusal> {
        let mut app = self.apps.get(name).cloned().ok_or_else(|| Refusal::NoApp(name.clone()))?;
        let old = app.spec.resources;
        let new = Resources {
            cpu: amounts.cpu.unwrap_or(old.cpu),
            memory: amounts.memory.unwrap_or(old.memory),
            disk: amounts.disk.unwrap_or(old.disk),
            gpu: old.gpu,
        };
        app.spec.resources = new;
        app.spec.check()?;
        let kind = app.spec.kind.as_str();
        if new == old {
            return Ok(Reply { lines: vec![format!("{kind} {name} unchanged")] });
        }
        let ids: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|i| i.spec.name == *name && !i.is_stopping() && i.revision == app.revision)
            .map(|i| i.id.clone())
            .collect();
        // All or none: what is refused half-way leaves no trace.
        let mut trial = self.clone();
        for id in &ids {
            trial.resize_instance(id, new)?;
        }
        trial.put_app(App { spec: app.spec, ..app });
        *self = trial;
        let (cpu, memory, disk) = (new.cpu, new.memory, new.disk);
        self.event(Severity::Normal, name, "Resized", format!("to cpu {cpu}, memory {memory}, disk {disk}"));
        Ok(Reply { lines: vec![format!("{kind} {name} resized, {} running", ids.len())] })
    }

    fn resize_instance(&mut self, id: &InstanceId, resources: Resources) -> Result<(), Refusal> {
        let Some(mut instance) = self.instances.get(id).cloned() else { return Ok(()) };
        instance.spec.resources = resources;
        if let Some(module) = instance.module.as_ref().and_then(|name| self.modules.get(name)) {
            let until = self.plans.get(&instance.spec.name).map_or(u64::MAX, |plan| plan.end);
            let window = Window { from: self.now.wall, until };
            let holds = self.holds(Except { instance: Some(id), ..Except::default() });
            let held = by_module(holds.iter());
            let there = held.get(&module.name).map(Vec::as_slice).unwrap_or_default();
            let usage = self.usage_on(&module.name, there, window);
            let short = crate::place::short_of_amounts(module, &usage, &instance.spec);
            let bound = self.bind(module, &usage, &instance.spec, &instance.binding);
            let Some(binding) = bound.filter(|_| short.is_empty()) else {
                let reason = short.first().map_or("its numbered resources are taken", |f| f.why.as_str());
                let instance = instance.id.replica().to_string();
                return Err(Refusal::NoRoom { instance, reason: format!("{}: {reason}", module.name) });
            };
            instance.binding = binding;
        }
        self.put_instance(instance);
        Ok(())
    }
}
