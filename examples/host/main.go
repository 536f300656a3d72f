// Command host prints this machine's readings, or those of a script's output on standard input.
//
//	host
//	host script | ssh builder sh | host parse
package main

import (
	"encoding/json"
	"io"
	"log"
	"os"
	"time"

	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/host"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	var readings offload.Readings
	switch {
	case len(args) == 0:
		readings = host.Read(nil)
	case args[0] == "script":
		_, err := io.WriteString(out, host.Script())
		return err
	default:
		text, err := io.ReadAll(io.LimitReader(in, host.MaxOutput))
		if err != nil {
			return err
		}
		readings = host.Parse(string(text), time.Now())
	}
	return json.NewEncoder(out).Encode(readings)
}
