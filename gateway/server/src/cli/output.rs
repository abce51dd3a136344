//! The forms in which a command answers.

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::terminal::print;

/// How a command answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs: what the gateway answers
    Json,
    /// The same as YAML
    Yaml,
}

#[derive(Args)]
pub(super) struct OutputOptions {
    /// Form of the answer
    #[arg(
        long,
        short,
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    output: Format,
}

impl OutputOptions {
    /// Writes a value in the form that is asked for; for people that is what `table` writes.
    ///
    /// # Errors
    /// When it can't be written.
    pub(super) fn show(
        &self,
        value: &Value,
        table: impl FnOnce() -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        match self.output {
            Format::Table => table()?,
            Format::Json => print(&serde_json::to_string_pretty(value)?)?,
            Format::Yaml => print(serde_saphyr::to_string(value)?.trim_end())?,
        }
        Ok(())
    }

    pub(super) fn is_for_people(&self) -> bool {
        self.output == Format::Table
    }
}
