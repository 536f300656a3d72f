package catalog

import (
	"errors"
	"fmt"
)

// Dialect is the language of a database.
type Dialect int

// The databases that a catalog can be in. SQLite from 3.35 on, PostgreSQL from 13 on.
const (
	SQLite Dialect = iota + 1
	PostgreSQL
)

// String returns the database's name.
func (d Dialect) String() string {
	switch d {
	case SQLite:
		return "SQLite"
	case PostgreSQL:
		return "PostgreSQL"
	}
	return fmt.Sprintf("Dialect(%d)", int(d))
}

// texts is a subquery that yields the strings of a parameter in JSON, such as "$1": one statement for any number.
func (d Dialect) texts(parameter string) string {
	if d == SQLite {
		return "(SELECT value FROM json_each(" + parameter + "))"
	}
	return "(SELECT json_array_elements_text(" + parameter + "::text::json))"
}

// rows is what follows SELECT to yield the same strings as a column named hash.
func (d Dialect) rows(parameter string) string {
	if d == SQLite {
		return "value AS hash FROM json_each(" + parameter + ")"
	}
	return "json_array_elements_text(" + parameter + "::text::json) AS hash"
}

// pairs is what follows FROM to yield pairs of a string and an integer, [["a",1],…], as columns hash and referrer.
func (d Dialect) pairs(parameter string) string {
	if d == SQLite {
		return "(SELECT json_extract(value, '$[0]') AS hash, json_extract(value, '$[1]') AS referrer FROM json_each(" +
			parameter + ")) AS pairs"
	}
	return "(SELECT value->>0 AS hash, (value->>1)::bigint AS referrer FROM json_array_elements(" +
		parameter + "::text::json)) AS pairs"
}

// numbers is texts for integers.
func (d Dialect) numbers(parameter string) string {
	if d == SQLite {
		return d.texts(parameter)
	}
	return "(SELECT json_array_elements_text(" + parameter + "::text::json)::bigint)"
}

// forUpdate and forShare end a SELECT whose rows nobody else may change before this transaction ends, or change or
// delete. SQLite has one writing transaction at a time, and needs neither.
func (d Dialect) forUpdate() string { return d.lock(" FOR UPDATE") }

func (d Dialect) forShare() string { return d.lock(" FOR SHARE") }

func (d Dialect) lock(clause string) string {
	if d == SQLite {
		return ""
	}
	return clause
}

// again reports whether a transaction that failed so has done nothing and would not fail again for the same reason:
// another one was in its way.
func (d Dialect) again(err error) bool {
	if d == SQLite {
		coded, ok := errors.AsType[interface {
			error
			Code() int
		}](err)
		const busy, locked = 5, 6
		return ok && (coded.Code()&0xff == busy || coded.Code()&0xff == locked)
	}
	state, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err)
	const serialization, deadlock = "40001", "40P01"
	return ok && (state.SQLState() == serialization || state.SQLState() == deadlock)
}
