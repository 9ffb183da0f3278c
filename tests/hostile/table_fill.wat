;; Fills a table again and again, which a snapshot cannot keep.
(table $table 20000 funcref)
(func (export "fill") (loop $for_ever (table.fill $table (i32.const 0) (ref.null func) (i32.const 20000)) (br $for_ever)))
