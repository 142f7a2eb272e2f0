//! Scopes of the Docker token flow: `repository:NAME:pull,push`.

use crate::config::Role;
use serde::{Deserialize, Serialize};

/// What a token is good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scope {
    pub(crate) repository: String,
    pub(crate) actions: Vec<String>,
}

fn action(role: Role) -> &'static str {
    match role {
        Role::Pull => "pull",
        Role::Push => "push",
        Role::Admin => "delete",
    }
}

impl Scope {
    /// What one request needs, in the words of the challenge.
    pub(crate) fn needed(repository: &str, role: Role) -> String {
        let actions = match role {
            Role::Pull => "pull",
            Role::Push => "pull,push",
            Role::Admin => "delete",
        };
        format!("repository:{repository}:{actions}")
    }

    /// Reads what clients ask for: several scopes with spaces between them. Others than repositories are left out.
    pub(crate) fn parse(text: &str) -> Vec<Self> {
        let one = |word: &str| {
            let (kind, rest) = word.split_once(':')?;
            let (repository, actions) = rest.rsplit_once(':')?;
            let is_repository = kind == "repository" || kind.starts_with("repository(");
            is_repository.then(|| Self {
                repository: repository.into(),
                actions: actions.split(',').map(str::to_owned).collect(),
            })
        };
        text.split_ascii_whitespace().filter_map(one).take(16).collect()
    }

    /// As much of it as a role allows; None when that is nothing.
    pub(super) fn at_most(&self, role: Option<Role>) -> Option<Self> {
        let role = role?;
        let mut actions = Vec::new();
        for allowed in [Role::Pull, Role::Push, Role::Admin].into_iter().filter(|allowed| *allowed <= role) {
            if self.actions.iter().any(|asked| asked == action(allowed) || asked == "*") {
                actions.push(action(allowed).to_owned());
            }
        }
        (!actions.is_empty()).then(|| Self { repository: self.repository.clone(), actions })
    }

    pub(super) fn allows(&self, repository: &str, role: Role) -> bool {
        self.repository == repository && self.actions.iter().any(|found| found == action(role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_cut_to_what_may_be() {
        let asked = Scope::parse("repository:a/b:pull,push registry:catalog:* repository:c:* nonsense");
        assert_eq!(asked.len(), 2);
        let [first, second] = &asked[..] else { panic!() };
        assert_eq!(first.at_most(Some(Role::Pull)).unwrap().actions, ["pull"]);
        assert_eq!(first.at_most(Some(Role::Admin)).unwrap().actions, ["pull", "push"]);
        assert_eq!(second.at_most(Some(Role::Admin)).unwrap().actions, ["pull", "push", "delete"]);
        assert_eq!(first.at_most(None), None);
        let given = first.at_most(Some(Role::Push)).unwrap();
        assert!(given.allows("a/b", Role::Push) && !given.allows("a", Role::Push));
        assert!(!given.allows("a/b", Role::Admin));
    }
}
