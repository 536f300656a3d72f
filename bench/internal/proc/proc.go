// Package proc reads what Linux tells of processes and of the machine, for reports of benchmarks.
package proc

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of /proc/PID/stat's times: USER_HZ, which is 100 wherever Go runs.
const tick = 10 * time.Millisecond

// CPU returns the processor time that a process, its children and theirs have used, those included that ended and were
// waited for. It counts in steps of 10 ms.
func CPU(pid int) (time.Duration, error) {
	all, err := stats()
	if err != nil {
		return 0, err
	}
	if _, ok := all[pid]; !ok {
		return 0, fmt.Errorf("proc: no process %d", pid)
	}
	var ticks int64
	for p := range all {
		if descends(all, p, pid) {
			ticks += all[p].ticks
		}
	}
	return time.Duration(ticks) * tick, nil
}

type stat struct {
	parent int
	ticks  int64
}

func stats() (map[int]stat, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	all := make(map[int]stat)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		if s, err := parseStat(text); err == nil {
			all[pid] = s
		}
	}
	return all, nil
}

// parseStat reads PID (NAME) STATE PPID …, in which NAME may hold anything.
func parseStat(text []byte) (stat, error) {
	i := bytes.LastIndexByte(text, ')')
	fields := strings.Fields(string(text[i+1:]))
	if i < 0 || len(fields) < 15 {
		return stat{}, fmt.Errorf("proc: stat %.60q", text)
	}
	var s stat
	var err error
	if s.parent, err = strconv.Atoi(fields[1]); err != nil {
		return stat{}, fmt.Errorf("proc: stat %.60q", text)
	}
	for _, field := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("proc: stat %.60q", text)
		}
		s.ticks += n
	}
	return s, nil
}

func descends(all map[int]stat, pid, from int) bool {
	for range len(all) {
		if pid == from {
			return true
		}
		s, ok := all[pid]
		if !ok {
			return false
		}
		pid = s.parent
	}
	return false
}

// Memory is a process's resident memory in bytes.
type Memory struct {
	Now  int64 // VmRSS
	Peak int64 // VmHWM
	Anon int64 // RssAnon: the part that is its own, not pages of files
}

// MemoryOf reads a process's resident memory.
func MemoryOf(pid int) (Memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}, err
	}
	return parseMemory(text), nil
}

func parseMemory(text []byte) Memory {
	var m Memory
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		field := map[string]*int64{"VmRSS": &m.Now, "VmHWM": &m.Peak, "RssAnon": &m.Anon}[name]
		if field == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
		if err == nil {
			*field = kib << 10
		}
	}
	return m
}
