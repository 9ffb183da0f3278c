;; Takes a tenth of a second and more for each piece of an input.
;; replaces: realloc load
(global $loaded (mut i32) (i32.const 0))
(func (export "airlock:inference/plugin@0.1.0#load") (param i32 i32 i32 i32) (result i32)
  (global.set $loaded (i32.const 1))
  (i32.const 128))
(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
  (local $turns i32)
  (if (global.get $loaded)
    (then (loop $more
      (local.set $turns (i32.add (local.get $turns) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $turns) (i32.const 0x20000000))))))
  (call $alloc (local.get 2) (local.get 3)))
