//! What would have to change for a request that waits.

use super::node::Node;
use super::resources::WHOLE;
use super::shape::Shape;

/// What one node lacks for a request.
#[derive(Debug, Clone, PartialEq)]
struct Lack {
    words: Vec<String>,
    /// The sum of what is lacking, each as a share of what is asked.
    much: f64,
}

/// One sentence: the node that lacks the least, and what. None when only constraints stand in the way.
pub(crate) fn change(nodes: &[Node], shape: &Shape) -> Option<String> {
    let lacks = nodes.iter().filter(|node| !node.closed && node.has_model(shape));
    let lacks = lacks.map(|node| (node, lack(node, shape))).filter(|(_, lack)| !lack.words.is_empty());
    let nearest = lacks.reduce(|best, next| {
        let key = |(_, lack): &(&Node, Lack)| (lack.words.len(), lack.much);
        if key(&next) < key(&best) { next } else { best }
    });
    let (node, lack) = nearest?;
    Some(format!("{} is the nearest: it is short {}", node.name, lack.words.join(" and ")))
}

fn lack(node: &Node, shape: &Shape) -> Lack {
    let mut lack = Lack { words: Vec::new(), much: 0.0 };
    let mut short = |what: &str, asked: u64, free: u64| {
        if asked > free {
            lack.words.push(format!("of {what} by {}", asked - free));
            lack.much += (asked - free) as f64 / asked as f64;
        }
    };
    short("thousandths of a core", shape.amounts.cpu, node.free.cpu);
    short("memory", shape.amounts.memory, node.free.memory);
    short("disk", shape.amounts.disk, node.free.disk);
    if shape.accelerators > 0 {
        let fitting = node.fitting(shape).len() as u64;
        let what = match shape.milli {
            WHOLE => "free accelerators".to_owned(),
            milli => format!("accelerators with {milli} thousandths free"),
        };
        short(&what, u64::from(shape.accelerators), fitting);
    }
    lack
}
