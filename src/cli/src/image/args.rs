use crate::args::Output;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Which registry, and as whom.
#[derive(Debug, Args)]
pub(crate) struct Access {
    /// The cluster's registry, instead of `registry` in the configuration or port 5000 of the server
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub(crate) registry: Option<String>,
    /// Who asks; the password comes from --password-file, --password-stdin or $SPACECTL_REGISTRY_PASSWORD
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// A file whose first line is the password
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "password_stdin")]
    pub(crate) password_file: Option<PathBuf>,
    /// Read the password from the first line of standard input
    #[arg(long, global = true)]
    pub(crate) password_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    /// Send an image to the cluster's registry: only what it lacks, and after a cut from where it stopped
    Push(Push),
    /// List the images
    Ls {
        /// Only this repository
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// How to print it; wide and json ask for the manifest of each tag
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Show what an image is made of
    Inspect {
        /// Which one
        #[arg(value_name = "NAME[:TAG|@DIGEST]")]
        image: String,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Remove tags, or with @DIGEST manifests; `gc` frees the space
    Rm {
        /// Which ones
        #[arg(value_name = "NAME:TAG|NAME@DIGEST", required = true)]
        images: Vec<String>,
    },
    /// Free the space of what no image needs any more
    Gc {
        /// Also images that have no tag any more, whatever the registry's configuration says
        #[arg(long)]
        untagged: bool,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Show how much space the images take, and how much is left
    Df {
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

/// What to push, where to, and how.
#[derive(Debug, Args)]
pub(crate) struct Push {
    /// An OCI layout's directory, an OCI or docker archive (tar), or an image in another registry,
    /// HOST[:PORT]/NAME[:TAG|@DIGEST]
    #[arg(value_name = "DIR|ARCHIVE|REF")]
    pub(crate) source: String,
    /// Its name in the cluster; without it the name that the source gives
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) name: Option<String>,
    /// Which image, where the source holds several: the name that it has there
    #[arg(long, value_name = "NAME")]
    pub(crate) select: Option<String>,
    /// Of an image for several platforms only this one, as linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    /// Send the layers of a docker archive as they are, not packed
    #[arg(long)]
    pub(crate) no_compress: bool,
    /// How much to send in one request
    #[arg(long, value_name = "SIZE", default_value = "4MiB")]
    pub(crate) chunk: model::Bytes,
    /// How often to go on by itself after a cut; a chunk that came through starts the count anew
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) retries: u32,
    /// Who reads from the other registry; the password is in $SPACECTL_SOURCE_PASSWORD
    #[arg(long, value_name = "NAME")]
    pub(crate) source_user: Option<String>,
    /// The other registry speaks plain HTTP; loopback addresses only
    #[arg(long)]
    pub(crate) source_plain_http: bool,
    /// How to print the outcome
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}
