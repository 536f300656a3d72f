package main

import (
	"context"
	"fmt"

	"github.com/voidnxlab/nixtrap/internal/subcommand"
	"github.com/voidnxlab/nixtrap/offload/doctor"
	"github.com/voidnxlab/nixtrap/offload/machines"
)

const doctorHelp = `
Looks at the list of builders, at Nix's settings, at the coordinator, and at each builder: whether it is reached and takes
our key, what its Nix trusts and builds for, its disks and its clock. It changes nothing, and says what to do about each
fault. Its exit status is 1 if there is one. Run it as the user that Nix builds as, root in most cases, so that it sees
the same files.

Examples:
  nix-offload doctor
  nix-offload doctor --all --machines builders.toml --key /etc/nix/builder_ed25519`

// runDoctor says what is wrong.
func (p *process) runDoctor(ctx context.Context, cmd *subcommand.Command, args []string) error {
	o := &coordinatorOptions{}
	set := cmd.FlagSet()
	a := p.asked(set)
	set.StringVar(&o.machines, "machines", machines.DefaultFile, "`FILE` with the builders, as Nix has it or in TOML")
	set.StringVar(&o.key, "key", "", "private key `FILE` for builders that name none")
	set.StringVar(&o.knownHosts, "known-hosts", "", "`FILE` with host keys of builders that pin none (default root's and the system's)")
	set.BoolVar(&a.json, "json", false, "the findings as JSON")
	all := set.Bool("all", false, "say what is right, too")
	words, err := cmd.Parse(set, args)
	if err == nil && len(words) > 0 {
		err = cmd.Misuse("takes no arguments")
	}
	if err != nil {
		return err
	}
	list := doctor.Examine(ctx, &doctor.Options{MachinesFile: o.machines, Socket: a.socket, SSH: o.ssh()})
	if a.json {
		err = p.printJSON(list)
	} else {
		p.printFindings(list, *all)
	}
	if err == nil && doctor.Sick(list) {
		return statusError(1)
	}
	return err
}

func (p *process) printFindings(list []doctor.Finding, all bool) {
	right := 0
	for _, f := range list {
		if f.Grade == doctor.Good {
			right++
			if !all {
				continue
			}
		}
		name := f.Machine
		if name == "" {
			name = "this machine"
		}
		fmt.Fprintf(p.stdout, "%s: %s: %s: %s\n", f.Grade, name, f.Check, f.Text)
		if f.Fix != "" {
			fmt.Fprintf(p.stdout, "    %s\n", f.Fix)
		}
	}
	fmt.Fprintf(p.stdout, "%d things are right, %d are not\n", right, len(list)-right)
}
