//! Scalars as typed. They stay text here and are parsed in `resolve`, so that all errors come at once.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

/// A text with a form of its own; its `title` is what errors say was expected.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $title:literal, [$($example:literal),+]) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
        #[serde(transparent)]
        pub(crate) struct $name(pub(crate) String);

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "title": $title, "examples": [$($example),+] })
            }
        }
    };
}

text!(
    /// A span of time with its unit.
    DurationText, "duration", ["3s", "500ms", "2m", "1h", "30d"]
);
text!(
    /// An IP address with a port.
    AddressText, "address and port", ["127.0.0.1:8080", "[::1]:8080"]
);
text!(
    /// An IP network in CIDR form, or one address.
    NetworkText, "network", ["10.0.0.0/8", "2001:db8::/32"]
);
text!(
    /// An HTTP address.
    UrlText, "URL", ["https://api.example.com/v1"]
);
text!(
    /// How many in which time.
    RateText, "rate", ["20/s", "600/m"]
);
text!(
    /// A point in time by RFC 3339.
    TimeText, "time", ["2027-01-01T00:00:00Z"]
);
text!(
    /// A distance from UTC.
    OffsetText, "UTC offset", ["+08:00", "-05:30", "+00:00"]
);
text!(
    /// SHA-256 in hexadecimal.
    HashText, "SHA-256", ["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
);
text!(
    /// A model id in which `*` stands for any characters.
    GlobText, "model glob", ["*", "deepseek-*"]
);
text!(
    /// A file's path.
    PathText, "path", ["/etc/tollgate/tls.crt"]
);

/// A text that must not show in errors or logs.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct SecretText(pub(crate) String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

impl JsonSchema for SecretText {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "SecretText".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // `writeOnly` also tells the check not to show what it found.
        json_schema!({ "type": "string", "title": "secret", "writeOnly": true, "examples": ["${NAME}", "${file:/run/secrets/name}"] })
    }
}

/// A number or a text with a form of its own. The value is not kept: `resolve` reads the exact text of
/// the document, because a float would round it.
macro_rules! number_or_text {
    ($(#[$doc:meta])* $name:ident, $title:literal, $number:literal, [$($example:tt),+]) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) struct $name;

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                IgnoredAny::deserialize(deserializer).map(|_| Self)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": [$number, "string"], "title": $title, "examples": [$($example),+] })
            }
        }
    };
}

number_or_text!(
    /// Money in units of the configured currency, at most 6 decimals.
    Amount, "amount", "number", [19.9, "19.90"]
);
number_or_text!(
    /// A number of bytes, with a unit or without.
    SizeText, "size", "integer", ["32MiB", "32KiB", 1048576]
);

/// A mapping from names to `T`, in the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Named<T>(pub(crate) Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Named<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Named(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Named_{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "type": "object", "additionalProperties": one })
    }
}
