//! Text to settings.

pub mod settings;

pub use settings::{
    GuardChoice, LogLevel, NatSettings, PublishSpec, Settings, TapChoice, TapOffload, UplinkChoice,
};
