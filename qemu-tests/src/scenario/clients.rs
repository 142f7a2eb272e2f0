//! Clients that are instances themselves: what they have counted, as they say.

use super::failed;
use crate::{Module, SimError, Times, within};

/// What a client has counted since its first success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) longest_gap_ms: u64,
}

/// What the client `app` on this module has counted up to now.
///
/// # Errors
/// It has said nothing yet.
pub(crate) fn read(module: &Module, app: &str) -> Result<Calls, SimError> {
    // What failed is said in between.
    let log = format!("$(ls -t /var/lib/spacecloud/logs/{app}-1-*.log | head -n 1)");
    let read = format!("grep -aE '^[0-9]+ [0-9]+ [0-9]+$' {log} | tail -n 1");
    let said = module.run(&read, within(120.s()))?;
    parse(&said).ok_or_else(|| failed(format!("{app} says {:?}", said.trim())))
}

/// What the last failure was, in its words.
pub(crate) fn last_failure(module: &Module, app: &str) -> Option<String> {
    let read = format!("grep -ah '^failed: ' /var/lib/spacecloud/logs/{app}-1-*.log | tail -n 1");
    let said = module.run(&read, within(120.s())).ok()?;
    Some(format!("{app} {}", said.trim()))
}

fn parse(said: &str) -> Option<Calls> {
    let numbers: Vec<u64> = said.split_whitespace().map_while(|word| word.parse().ok()).collect();
    match numbers.as_slice() {
        [requests, failed, gap] => Some(Calls { requests: *requests, failed: *failed, longest_gap_ms: *gap }),
        _ => None,
    }
}

/// An app that is such a client, on one module: it calls `to` each time anew, or stays on one connection.
pub(crate) fn app(name: &str, verb: &str, to: &str, module: &str, image: &str) -> String {
    format!(
        "[[app]]\nname = '{name}'\nimage = '{image}'\ncommand = ['/demo-app', '{verb}', '{to}', '300']\n\
         resources = {{ memory = '32MiB' }}\nplacement = {{ modules = ['{module}'] }}\ngrace = '1s'\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_is_read() {
        assert_eq!(parse("12 0 340\n"), Some(Calls { requests: 12, failed: 0, longest_gap_ms: 340 }));
        assert_eq!(parse("failed: no whole answer\n"), None);
        let text = app("caller", "call", "10.46.0.1:80", "module-1", "r.s:5000/demo:1");
        let apps = model::AppFile::parse("clients", &text).unwrap().apps;
        assert_eq!(apps.len(), 1);
    }
}
