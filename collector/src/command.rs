//! The command line of `dogwatch-collector`: run it, make join tokens and people, verify a store.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use dogwatch::clock;
use dogwatch::config::parse_duration;
use dogwatch::identity::{PersonName, Role};
use dogwatch::record::NodeName;
use dogwatch::reload::Origin;
use dogwatch::supervise::Stop;
use dogwatch::{telemetry, termination};

use crate::admit::ca::Ca;
use crate::admit::tokens::TokenStore;
use crate::config::Config;
use crate::run::{Started, ca_options, run, store_config};
use crate::store::audit::{self, Audit, Trust};

/// Arenas of the allocator: what many nodes send is taken in by several threads at once.
const ARENAS: u8 = 4;

/// Takes in what nodes sealed, keeps it, makes incidents of it, and answers.
#[derive(Debug, Parser)]
#[command(name = "dogwatch-collector", version)]
struct Cli {
    /// YAML file; without one, defaults and DOGWATCH_SECTION__KEY.
    #[arg(long, global = true, env = "DOGWATCH_COLLECTOR_CONFIG")]
    config: Option<PathBuf>,
    /// Only check the configuration: exit code 0 or 2.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a join token, with which nodes enrol.
    Token(TokenArgs),
    /// Make a certificate for a person.
    Person(PersonArgs),
    /// Print the certificate of this collector's CA: what agents know it by.
    Ca,
    /// Check every block, link and signed head of a store, offline.
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
struct TokenArgs {
    /// How often it can be used.
    #[arg(long, default_value_t = 1)]
    uses: u32,
    /// How long it can be used: 30m, 24h, 7d.
    #[arg(long, default_value = "24h", value_parser = duration)]
    ttl: Duration,
    /// Only for this node.
    #[arg(long)]
    node: Option<NodeName>,
}

#[derive(Debug, Args)]
struct PersonArgs {
    /// Their name, as it will stand in the journal.
    name: PersonName,
    /// viewer, responder or admin.
    #[arg(long, default_value = "viewer")]
    role: Role,
    /// How long the certificate lives: 12h, 30d.
    #[arg(long, default_value = "30d", value_parser = duration)]
    ttl: Duration,
    /// Folder for NAME.crt, NAME.key and ca.crt.
    #[arg(long, short, default_value = ".")]
    out: PathBuf,
    /// Write no files: print key, certificate and CA, in this order, in one PEM text. The CLI takes such a file for all three.
    #[arg(long, conflicts_with = "out")]
    stdout: bool,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// The store's folder; without it, the configured one.
    #[arg(long)]
    store: Option<PathBuf>,
    /// A node's public signing key that you noted yourself: NODE=HEX. Without any, the keys in the store's own journal
    /// are used, which somebody with access to it could have changed.
    #[arg(long = "node-key", value_name = "NODE=HEX")]
    node_keys: Vec<String>,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a number with s, m, h or d, e.g. 24h".to_owned())
}

/// Parses `args`, does what they say, and gives the exit code: 0 done, 1 failed, 2 usage, 4 verification failed.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    dogwatch::arenas::settle(ARENAS);
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // Where even that cannot be printed there is nobody to tell.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    let origin = Origin::of(cli.config.as_deref());
    let (config, keys) = match Config::load_keys(cli.config.as_deref(), std::env::vars()) {
        Ok(loaded) => loaded,
        Err(problems) => {
            if cli.command.is_none() && !cli.check_config {
                termination::tell(&format!("dogwatch-collector: {problems}"));
            }
            telemetry::say(&format!("dogwatch-collector: {problems}"));
            return ExitCode::from(2);
        }
    };
    if cli.check_config {
        println!("the configuration is valid");
        return ExitCode::SUCCESS;
    }
    let result = match cli.command {
        None => serve(config, Started { origin, keys }),
        Some(Verb::Token(a)) => token(&config, a),
        Some(Verb::Person(a)) => person(&config, &a),
        Some(Verb::Ca) => open_ca(&config).map(|ca| print!("{}", ca.root_pem())),
        Some(Verb::Verify(a)) => return verify(&config, a),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            telemetry::say(&format!("dogwatch-collector: {e}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config, started: Started) -> Result<(), String> {
    telemetry::init(&config.log_level, config.log_format);
    termination::watch_panics();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    let result = runtime.block_on(async {
        let stop = Stop::default();
        stop.on_signals().map_err(|e| format!("signal handlers: {e}"))?;
        run(config, started, stop).await.map_err(|e| e.to_string())
    });
    if let Err(why) = &result {
        termination::tell(&format!("dogwatch-collector: {why}"));
    }
    result
}

fn open_ca(config: &Config) -> Result<Ca, String> {
    if config.external.is_some() {
        return Err("certificates come from an external CA here (identity.certificate); make this one there"
            .to_owned());
    }
    Ca::open_or_create(&config.state_dir.join("ca"), ca_options(config), clock::wall_ns())
        .map_err(|e| e.to_string())
}

fn token(config: &Config, args: TokenArgs) -> Result<(), String> {
    let ca = open_ca(config)?;
    let tokens = TokenStore::open(&config.state_dir.join("tokens")).map_err(|e| e.to_string())?;
    let token = tokens
        .create(args.uses, args.ttl, args.node, ca.fingerprint(), clock::wall_ns())
        .map_err(|e| e.to_string())?;
    println!("{}", token.to_text());
    Ok(())
}

fn person(config: &Config, args: &PersonArgs) -> Result<(), String> {
    let ca = open_ca(config)?;
    let issued =
        ca.issue_person(&args.name, args.role, args.ttl, clock::wall_ns()).map_err(|e| e.to_string())?;
    if args.stdout {
        print!("{}{}{}", issued.key_pem, issued.chain_pem, issued.ca_pem);
        return Ok(());
    }
    std::fs::create_dir_all(&args.out).map_err(|e| format!("{}: {e}", args.out.display()))?;
    let file = |suffix: &str| args.out.join(format!("{}.{suffix}", args.name));
    let write = |path: PathBuf, text: &str, private: bool| {
        let write = if private {
            dogwatch::identity::write_private_file
        } else {
            dogwatch::identity::write_public_file
        };
        write(&path, text.as_bytes()).map_err(|e| e.to_string()).map(|()| path)
    };
    let certificate = write(file("crt"), &issued.chain_pem, false)?;
    let key = write(file("key"), &issued.key_pem, true)?;
    let root = write(args.out.join("ca.crt"), &issued.ca_pem, false)?;
    println!("certificate: {}\nkey: {}\nca: {}", certificate.display(), key.display(), root.display());
    Ok(())
}

fn verify(config: &Config, args: VerifyArgs) -> ExitCode {
    let dir = args.store.unwrap_or_else(|| store_config(config).dir);
    let trust = if args.node_keys.is_empty() {
        Ok(Trust::Truth)
    } else {
        audit::given(args.node_keys.iter().map(String::as_str))
    };
    let audit = match trust.and_then(|t| audit::verify(&dir, t)) {
        Ok(audit) => audit,
        Err(e) => {
            telemetry::say(&format!("dogwatch-collector: {e}"));
            return ExitCode::FAILURE;
        }
    };
    print!("{}", told(&audit));
    ExitCode::from(if audit.is_clean() { 0 } else { 4 })
}

/// An audit in words: what was read, how far signatures reach, what is wrong.
fn told(audit: &Audit) -> String {
    let mut text = format!(
        "read {} blocks, {} signed heads and {} decisions in {} chains\n",
        audit.blocks,
        audit.heads,
        audit.decisions,
        audit.report.chains.len()
    );
    let origin = if audit.keys_from_store {
        "from the store's own journal, which whoever changed the store could have changed; give --node-key to be sure"
    } else {
        "given"
    };
    let keys = if audit.keys_from_store { audit.keys.to_string() } else { "as named".to_owned() };
    text += &format!("keys: {keys} ({origin})\n");
    for chain in &audit.report.chains {
        let reach =
            chain.verified_up_to.map_or("nothing signed".to_owned(), |seq| format!("signed up to seq {seq}"));
        text += &format!(
            "  {}: {} blocks, {reach}, {} blocks after that\n",
            chain.chain, chain.blocks, chain.unsigned_blocks
        );
    }
    for damage in &audit.damaged {
        text +=
            &format!("damaged: {} bytes in the {} journal, {:?}\n", damage.bytes, damage.journal, damage.at);
    }
    for warning in &audit.report.warnings {
        text += &format!("warning: {warning}\n");
    }
    for problem in &audit.report.problems {
        text += &format!("PROBLEM: {problem}\n");
    }
    let more = audit.report.unlisted_problems;
    if more > 0 {
        text += &format!("and {more} more problems\n");
    }
    text += match (audit.is_clean(), audit.damaged_bytes) {
        (true, 0) => "sound: nothing departs from what the nodes signed\n",
        (true, _) => {
            "NOT WHOLE: what could be read is what the nodes signed; the damaged bytes could not be checked\n"
        }
        (false, _) => "NOT SOUND\n",
    };
    text
}
