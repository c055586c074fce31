//! YAML text → tree of values, with the line and column of every key and value.
//!
//! `serde_yaml` knows no positions, hence the events of `saphyr-parser`. Variables are expanded after
//! parsing, so that no value can change the structure of the file.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};
use serde_yaml::{Mapping, Value};

use super::expand::{Env, expand};
use super::path;
use super::report::Problem;
use super::scalar;

/// More nodes than any configuration has; aliases multiply, so it is counted after them.
const NODES: usize = 100_000;
/// Deeper than any configuration is.
const DEPTH: usize = 64;

/// A configuration file as a tree, with the place of everything in it.
#[derive(Debug)]
pub(crate) struct Document {
    /// The tree; what could not be expanded is null and stands in the problems.
    pub(crate) root: Value,
    /// Scalars whose expansion failed.
    pub(crate) failed: BTreeSet<String>,
    /// Files that scalars are filled in from.
    pub(crate) files: BTreeSet<PathBuf>,
    places: HashMap<String, Place>,
}

#[derive(Debug, Clone, Default)]
struct Place {
    key: Option<(usize, usize)>,
    value: (usize, usize),
    /// A scalar as it stands in the file, before expansion.
    written: Option<String>,
    /// What the expansion gave, when there was one.
    expanded: Option<String>,
}

impl Document {
    /// Reads a document. Variables are looked up in `env`.
    ///
    /// Problems with single values come beside the document.
    ///
    /// # Errors
    ///
    /// The one problem that keeps the text from being read as YAML.
    pub(crate) fn read(text: &str, env: Env<'_>) -> Result<(Self, Vec<Problem>), Problem> {
        // A byte order mark is no part of the document.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut reader = Reader {
            text,
            events: Parser::new_from_str(text),
            anchors: HashMap::new(),
            problems: Vec::new(),
        };
        let root = reader.document()?;
        let mut builder = Builder {
            env,
            nodes: 0,
            failed: BTreeSet::new(),
            files: BTreeSet::new(),
            places: HashMap::new(),
            problems: reader.problems,
        };
        let root = builder.value(&root, "", None, 0)?;
        Ok((
            Self {
                root,
                failed: builder.failed,
                files: builder.files,
                places: builder.places,
            },
            builder.problems,
        ))
    }

    /// Line and column of a value, from 1; of the nearest setting above when it is not there.
    pub(crate) fn value_position(&self, path: &str) -> (usize, usize) {
        self.nearest(path).map_or((1, 1), |place| place.value)
    }

    /// Line and column of a setting's name, from 1; of its value when it has no name.
    pub(crate) fn key_position(&self, path: &str) -> (usize, usize) {
        self.nearest(path)
            .map_or((1, 1), |place| place.key.unwrap_or(place.value))
    }

    /// How a scalar may be shown in an error: as it stands in the file, so that no expanded secret shows.
    pub(crate) fn shown(&self, path: &str) -> Option<&str> {
        self.places.get(path)?.written.as_deref()
    }

    /// Whether a scalar came out of an expansion.
    pub(crate) fn is_expanded(&self, path: &str) -> bool {
        self.places
            .get(path)
            .is_some_and(|place| place.expanded.is_some())
    }

    /// The exact text of a scalar after expansion: for amounts, which a float would round.
    pub(crate) fn exact(&self, path: &str) -> Option<&str> {
        let place = self.places.get(path)?;
        place.expanded.as_deref().or(place.written.as_deref())
    }

    fn nearest(&self, path: &str) -> Option<&Place> {
        let mut at = Some(path);
        while let Some(here) = at {
            if let Some(place) = self.places.get(here) {
                return Some(place);
            }
            at = path::parent(here);
        }
        None
    }
}

/// A node before aliases are copied and variables expanded.
struct Node {
    at: (usize, usize),
    kind: Kind,
}

enum Kind {
    Scalar { text: String, plain: bool },
    List(Vec<Rc<Node>>),
    Map(Vec<(String, (usize, usize), Rc<Node>)>),
}

struct Reader<'t> {
    text: &'t str,
    events: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Rc<Node>>,
    problems: Vec<Problem>,
}

fn position(marker: Marker) -> (usize, usize) {
    (marker.line().max(1), marker.col() + 1)
}

fn problem((line, column): (usize, usize), path: &str, message: impl Into<String>) -> Problem {
    Problem {
        line,
        column,
        path: path.to_owned(),
        message: message.into(),
    }
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Problem> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let at = position(*error.marker());
                // By far the most likely slip of this schema: braces are YAML's own inside braces.
                let line = self.text.lines().nth(at.0.saturating_sub(1)).unwrap_or("");
                let remedy = if line.contains("${") {
                    "inside `{ }` and `[ ]` write `\"${NAME}\"` in quotes"
                } else {
                    "check indentation, quotes and brackets"
                };
                Err(problem(
                    at,
                    "",
                    format!("not YAML: {}; {remedy}", error.info()),
                ))
            }
            None => Err(problem((1, 1), "", "not YAML: the file ends too early")),
        }
    }

    fn document(&mut self) -> Result<Rc<Node>, Problem> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::Nothing => {}
                Event::DocumentStart(_) => break,
                _ => {
                    let message = "the file is empty; start from conf/tollgate.yaml";
                    return Err(problem(position(span.start), "", message));
                }
            }
        }
        let (event, span) = self.next()?;
        let root = self.node(event, span, "", 0)?;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::DocumentEnd | Event::Nothing => {}
                Event::StreamEnd => return Ok(root),
                _ => {
                    let message = "a second document begins here; a configuration is one document: remove `---`";
                    return Err(problem(position(span.start), "", message));
                }
            }
        }
    }

    fn node(
        &mut self,
        event: Event<'t>,
        span: Span,
        path: &str,
        depth: usize,
    ) -> Result<Rc<Node>, Problem> {
        let at = position(span.start);
        if depth > DEPTH {
            return Err(problem(
                at,
                path,
                format!("nested more than {DEPTH} levels deep"),
            ));
        }
        let (kind, anchor, tag) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                (
                    Kind::Scalar {
                        text: text.into_owned(),
                        plain,
                    },
                    anchor,
                    tag,
                )
            }
            Event::SequenceStart(anchor, tag) => (self.list(path, depth)?, anchor, tag),
            Event::MappingStart(anchor, tag) => (self.map(path, depth)?, anchor, tag),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(problem(
                        at,
                        path,
                        "this alias refers to itself; write the value out",
                    ));
                };
                return Ok(Rc::clone(node));
            }
            _ => return Err(problem(at, path, "not YAML: a value is missing here")),
        };
        if let Some(tag) = tag.filter(|tag| !is_text(tag, &kind)) {
            self.problems.push(problem(
                at,
                path,
                format!("the tag `{tag}` is not supported; remove it"),
            ));
        }
        let node = Rc::new(Node { at, kind });
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        Ok(node)
    }

    fn list(&mut self, path: &str, depth: usize) -> Result<Kind, Problem> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Kind::List(items));
            }
            let path = path::item(path, items.len());
            items.push(self.node(event, span, &path, depth + 1)?);
        }
    }

    fn map(&mut self, path: &str, depth: usize) -> Result<Kind, Problem> {
        let mut fields: Vec<(String, (usize, usize), Rc<Node>)> = Vec::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            let at = position(span.start);
            let (key, plain) = match event {
                Event::MappingEnd => return Ok(Kind::Map(fields)),
                Event::Scalar(text, style, _, _) => {
                    (text.into_owned(), style == ScalarStyle::Plain)
                }
                _ => return Err(problem(at, path, "a field name must be a plain word")),
            };
            let path = path::field(path, &key);
            let (event, span) = self.next()?;
            let node = self.node(event, span, &path, depth + 1)?;
            if plain && key == "<<" {
                let message = "merge keys (`<<`) are not part of YAML 1.2; repeat the fields, or alias the whole value";
                self.problems.push(problem(at, &path, message));
            } else if let Some(line) = seen.get(&key) {
                let message = format!("`{key}` is given twice, first in line {line}; remove one");
                self.problems.push(problem(at, &path, message));
            } else {
                seen.insert(key.clone(), at.0);
                fields.push((key, at, node));
            }
        }
    }
}

/// `!!str` is the one tag that says something here: it keeps a scalar text.
fn is_text(tag: &Tag, kind: &Kind) -> bool {
    matches!(kind, Kind::Scalar { .. }) && tag.is_yaml_core_schema() && tag.suffix == "str"
}

struct Builder<'e> {
    env: Env<'e>,
    nodes: usize,
    failed: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
    places: HashMap<String, Place>,
    problems: Vec<Problem>,
}

impl Builder<'_> {
    fn value(
        &mut self,
        node: &Node,
        path: &str,
        key: Option<(usize, usize)>,
        depth: usize,
    ) -> Result<Value, Problem> {
        self.nodes += 1;
        if self.nodes > NODES {
            return Err(problem(
                node.at,
                path,
                format!("more than {NODES} values, with aliases written out"),
            ));
        }
        // Again, because aliases stack what the reader saw as shallow.
        if depth > DEPTH {
            return Err(problem(
                node.at,
                path,
                format!("nested more than {DEPTH} levels deep"),
            ));
        }
        let mut place = Place {
            key,
            value: node.at,
            ..Place::default()
        };
        let value = match &node.kind {
            Kind::Scalar { text, plain } => {
                place.written = Some(text.clone());
                match expand(text, self.env, &mut self.files) {
                    Ok(expanded) => {
                        let value = scalar(expanded.as_deref().unwrap_or(text), *plain);
                        place.expanded = expanded;
                        value
                    }
                    Err(messages) => {
                        self.problems.extend(
                            messages
                                .into_iter()
                                .map(|message| problem(node.at, path, message)),
                        );
                        self.failed.insert(path.to_owned());
                        Value::Null
                    }
                }
            }
            Kind::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (at, item) in items.iter().enumerate() {
                    list.push(self.value(item, &path::item(path, at), None, depth + 1)?);
                }
                Value::Sequence(list)
            }
            Kind::Map(fields) => {
                let mut map = Mapping::with_capacity(fields.len());
                for (name, at, field) in fields {
                    let value =
                        self.value(field, &path::field(path, name), Some(*at), depth + 1)?;
                    map.insert(Value::String(name.clone()), value);
                }
                Value::Mapping(map)
            }
        };
        self.places.insert(path.to_owned(), place);
        Ok(value)
    }
}

fn scalar(text: &str, plain: bool) -> Value {
    if plain {
        scalar::typed(text)
    } else {
        Value::String(text.to_owned())
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
