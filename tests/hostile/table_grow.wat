;; Changes a table, which a snapshot cannot keep.
(table $table 1 funcref)
(func (export "grow") (result i32) (table.grow $table (ref.null func) (i32.const 1)))
