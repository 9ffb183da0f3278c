;; Aborts while it is being loaded.
;; replaces: load
(func (export "airlock:inference/plugin@0.1.0#load") (param i32 i32 i32 i32) (result i32)
  (unreachable))
