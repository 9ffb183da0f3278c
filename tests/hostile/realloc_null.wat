;; Once loaded, gives the address 0 for everything: all parts of an input lie upon each other, and upon its own texts.
;; replaces: realloc load
(global $loaded (mut i32) (i32.const 0))
(func (export "airlock:inference/plugin@0.1.0#load") (param i32 i32 i32 i32) (result i32)
  (global.set $loaded (i32.const 1))
  (i32.const 128))
(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
  (if (result i32) (global.get $loaded)
    (then (i32.const 0))
    (else (call $alloc (local.get 2) (local.get 3)))))
