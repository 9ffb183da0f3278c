;; Goes deep into its stack and back, again and again.
;; replaces: infer
(func $deep (param $left i32) (result i32)
  (if (result i32) (local.get $left)
    (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get $left) (i32.const 1)))))
    (else (i32.const 0))))
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (loop $for_ever (drop (call $deep (i32.const 5000))) (br $for_ever))
  (unreachable))
