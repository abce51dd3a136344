//! A script in a container: the client of podman or docker is the process, and its daemon is told to
//! end the container.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::environment::Variables;
use crate::task::{ContainerPlace, Limits};

/// The file that sets the script's variables: in the client's environment they would be the client's,
/// and on its command line everybody on this machine would read them.
pub(super) const VARIABLES: &str = ".variables.sh";

/// Fewest cores that a container may have.
const MIN_CORES: f64 = 0.01;

impl ContainerPlace {
    /// Returns the command that runs the script of this folder.
    pub(super) fn command(&self, scratch: &Path, limits: &Limits) -> Command {
        let mut command = self.client();
        let option = |name: &str, value: &str| format!("--{name}={value}");
        let memory = limits.memory_bytes.to_string();
        command
            .arg("run")
            .arg(option("name", &self.name))
            .arg(option("memory", &memory))
            .arg(option("memory-swap", &memory))
            .arg(option("pids-limit", &limits.processes.to_string()))
            .arg(option(
                "ulimit",
                &format!("fsize={0}:{0}", limits.scratch_bytes),
            ))
            .arg(option("ulimit", "core=0:0"))
            .arg(option("security-opt", "no-new-privileges"))
            .arg(option("log-driver", "none"))
            .arg(option("entrypoint", "/bin/sh"));
        if let Some(cores) = self.cores {
            // Docker takes neither less nor more.
            let there = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            let cores = cores.clamp(MIN_CORES, there as f64);
            command.arg(option("cpus", &cores.to_string()));
        }
        // Else what it leaves would be root's, and not ours to read and remove. Podman without root
        // does that by itself.
        let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
        if !user.is_root() && self.program.ends_with("docker") {
            let ids = format!("{}:{}", user.as_raw(), group.as_raw());
            command.arg(option("user", &ids));
        }
        let folder = scratch.to_string_lossy();
        command
            .arg(option("volume", &format!("{folder}:{folder}")))
            .arg(option("workdir", &folder))
            // What follows is no option, whatever it looks like.
            .arg("--")
            .arg(&self.image)
            .arg("-c")
            .arg(format!(". ./{VARIABLES}; exec /bin/sh ./script.sh"));
        command
    }

    /// Ends the container and all that runs in it, and returns whether it ran out of memory.
    pub(super) fn end(&self) -> bool {
        let inspect = self
            .client()
            .args(["inspect", "--format={{.State.OOMKilled}}", &self.name])
            .output();
        let ran_out = inspect.is_ok_and(|output| output.stdout.starts_with(b"true"));
        let mut remove = self.client();
        remove.args(["rm", "--force", "--volumes", &self.name]);
        // It is there unless the client could not start it, and has said why.
        let _ = remove.stdout(Stdio::null()).stderr(Stdio::null()).status();
        ran_out
    }

    fn client(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().envs(&self.client).stdin(Stdio::null());
        command
    }
}

/// Returns a script that sets variables, whatever is in them. Names that no shell can set are left out.
pub(super) fn exports(variables: &Variables) -> String {
    let mut script = String::new();
    for (name, value) in variables {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let begins = name.starts_with(|first: char| first.is_ascii_digit());
        if begins || !name.bytes().all(is_plain) {
            continue;
        }
        // Writing to a string does not fail.
        let _ = writeln!(script, "export {name}='{}'", value.replace('\'', r"'\''"));
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::PathBuf;
    use std::time::Duration;

    #[test]
    fn any_value_survives_the_shell() {
        let values = ["it's", "$(id) `id` \\", "a\nb", "", "'; exit 1; '"];
        let names = (0..).map(|number| format!("V{number}"));
        let mut variables: Variables = names.zip(values.map(str::to_owned)).collect();
        let script = exports(&variables);
        let script = format!("{script}env -0");
        let output = Command::new("/bin/sh")
            .arg("-c")
            .arg(script)
            .env_clear()
            .output()
            .unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let found: Variables = text
            .split_terminator('\0')
            .filter_map(|line| line.split_once('='))
            .filter(|(name, _)| name.starts_with('V'))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        assert_eq!(found, variables);

        variables.insert("a;b".to_owned(), String::new());
        variables.insert("1x".to_owned(), String::new());
        assert_eq!(
            exports(&variables)
                .lines()
                .filter(|line| line.starts_with("export"))
                .count(),
            5
        );
    }

    #[test]
    fn a_container_has_limits_and_no_secret_on_its_command_line() {
        let place = ContainerPlace {
            program: PathBuf::from("/usr/bin/podman"),
            client: Variables::new(),
            name: "hearth-1".to_owned(),
            image: "--privileged".to_owned(),
            cores: Some(0.5),
        };
        let limits = Limits {
            time: Duration::from_secs(1),
            memory_bytes: 1000,
            processes: 7,
            scratch_bytes: 2000,
            scratch_entries: 1,
            log_bytes: 1,
            output_bytes: 1,
        };
        let command = place.command(Path::new("/scratch/run"), &limits);
        let args: Vec<_> = command
            .get_args()
            .map(|arg| arg.to_str().unwrap())
            .collect();
        for expected in [
            "--memory=1000",
            "--pids-limit=7",
            "--cpus=0.5",
            "--volume=/scratch/run:/scratch/run",
        ] {
            assert!(args.contains(&expected), "{args:?}");
        }
        let image = args.iter().position(|arg| *arg == "--privileged").unwrap();
        assert_eq!(args[image - 1], "--");
        assert_eq!(command.get_envs().count(), 0);
    }
}
