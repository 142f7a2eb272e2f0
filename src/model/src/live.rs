//! Live moves: a running process is frozen on one module and goes on on another.
//!
//! The server decides, the two agents carry it out; the process's memory and files go from agent to agent. The planner
//! (`planner::live`) owns the state, which is one field of the successor's record, [`crate::Instance::takes`].
//!
//! ```text
//!            source's agent                              target's agent
//!  planned   runs                                        gets image, file system, network ready
//!  copying   runs; rounds of what changed ─────────────► keeps them
//!  frozen    frozen; the last round and the files ─────► keeps them
//!  given     frozen until the server says ┐              restores: from here it runs, or says why not
//!            killed ◄── successor runs ───┤
//!            thawed ◄── successor is void ┘
//! ```
//!
//! - Until the last byte has left the source, whatever fails thaws it there at once: the target cannot have it all.
//! - After that only the server's order ends the freeze. It is given up only when the target has said that it does not
//!   run the process, or has stopped it, or is lost. So the process never runs twice.
//! - A target that refuses starts the instance afresh beside the thawed one (make before break), and the reason stays
//!   with both.

use crate::{InstanceId, Name};
use serde::{Deserialize, Serialize};

/// An instance's part in a live move, as its agent is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Live {
    /// Give the process away to whoever asks for it in the name of `successor`, if it is the agent of `to`.
    Gives {
        /// The module.
        to: Name,
        /// The instance that it becomes.
        successor: InstanceId,
    },
    /// Do not start afresh: take the process over.
    Takes {
        /// The instance that it was.
        from: InstanceId,
        /// Where that is.
        module: Name,
        /// Where that module's agent gives processes away, as ADDRESS:PORT.
        address: String,
    },
}
