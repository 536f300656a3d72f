//go:build !race

package artefact_test

const raceEnabled = false
