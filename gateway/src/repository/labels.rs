//! Label files: the names of an output's classes, one a line.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use super::model_config::ModelConfig;

/// The names of an output's classes, in order.
pub(super) type Labels = Arc<[Box<str>]>;

/// Bytes of all label files of a model together.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// Labels of all label files of a model together: each takes more memory than its text.
const MAX_LABELS: usize = 1 << 16;

/// Bytes of one label.
const MAX_LABEL_BYTES: usize = 1 << 10;

/// Reads the label files that a configuration names. A model can be served without any: `problem` is told of those that
/// cannot be used.
pub(super) fn read(
    config: &ModelConfig,
    file: impl Fn(&str) -> Result<Vec<u8>, String>,
    mut problem: impl FnMut(&str),
) -> BTreeMap<String, Labels> {
    let (mut bytes, mut count) = (0, 0);
    // Several outputs may have one file.
    let mut files: BTreeMap<&str, Option<Labels>> = BTreeMap::new();
    let mut labels = BTreeMap::new();
    for (output, name) in &config.label_files {
        let of_file = match files.entry(name) {
            btree_map::Entry::Occupied(read) => read.into_mut(),
            btree_map::Entry::Vacant(unread) => {
                let read = file(name).and_then(|text| {
                    bytes += text.len();
                    let text = String::from_utf8(text).map_err(|_| format!("'{name}' is not UTF-8 text"))?;
                    count += text.lines().count();
                    if bytes > MAX_BYTES || count > MAX_LABELS {
                        return Err(format!(
                            "with '{name}' there are more than {MAX_BYTES} bytes or {MAX_LABELS} lines"
                        ));
                    }
                    if text.lines().any(|label| label.len() > MAX_LABEL_BYTES) {
                        return Err(format!("'{name}' has a line of more than {MAX_LABEL_BYTES} bytes"));
                    }
                    Ok(text.lines().map(Box::from).collect())
                });
                unread.insert(read.map_err(|reason| problem(&reason)).ok())
            }
        };
        labels.extend(of_file.clone().map(|of_file| (output.clone(), of_file)));
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(files: &[(&str, &str)]) -> ModelConfig {
        let label_files = files.iter().map(|(output, file)| ((*output).into(), (*file).into())).collect();
        ModelConfig { label_files, ..ModelConfig::default() }
    }

    #[test]
    fn lines_are_labels_and_outputs_may_share_a_file() {
        let mut problems = Vec::new();
        let file = |name: &str| match name {
            "a" => Ok(b"cat\r\n\ndog\n".to_vec()),
            "b" => Ok(vec![0xff]),
            _ => Err("it is not there".into()),
        };
        let config = config(&[("X", "a"), ("Y", "a"), ("Z", "b"), ("W", "c")]);
        let labels = read(&config, file, |problem| problems.push(problem.to_owned()));
        assert_eq!(labels.keys().collect::<Vec<_>>(), ["X", "Y"]);
        assert_eq!(labels["X"].iter().map(|label| &**label).collect::<Vec<_>>(), ["cat", "", "dog"]);
        assert!(Arc::ptr_eq(&labels["X"], &labels["Y"]));
        assert_eq!(problems, ["'b' is not UTF-8 text", "it is not there"]);
    }

    #[test]
    fn labels_are_bounded_for_all_files_together() {
        let line = [vec![b'a'; MAX_LABEL_BYTES - 1], vec![b'\n']].concat();
        for text in [vec![b'\n'; MAX_LABELS / 2 + 1], line.repeat(MAX_BYTES / line.len() / 2 + 1)] {
            let labels = read(&config(&[("X", "a"), ("Y", "b")]), |_| Ok(text.clone()), |_| ());
            assert_eq!(labels.len(), 1);
        }
    }

    #[test]
    fn a_label_is_bounded() {
        for (length, fits) in [(MAX_LABEL_BYTES, true), (MAX_LABEL_BYTES + 1, false)] {
            let labels = read(&config(&[("X", "a")]), |_| Ok(vec![b'a'; length]), |_| ());
            assert_eq!(labels.contains_key("X"), fits, "{length}");
        }
    }
}
