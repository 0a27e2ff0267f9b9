// Opa says what Open Policy Agent makes of a Rego policy. It reads one JSON document from standard input,
//
//	{"policy": TEXT, "values": {NAME: VALUE}, "now": NANOSECONDS, "data": {…}, "rules": [NAME], "inputs": [INPUT]}
//
// and writes a JSON list: for each input a list with the value of each rule, null where it is undefined, and
// {"error": TEXT} where evaluation failed. "values" is what query_reference_value answers; "now" stands for the rule now_ns.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/open-policy-agent/opa/ast"
	"github.com/open-policy-agent/opa/rego"
	"github.com/open-policy-agent/opa/storage/inmem"
	"github.com/open-policy-agent/opa/types"
)

type document struct {
	Policy string         `json:"policy"`
	Values map[string]any `json:"values"`
	Now    json.Number    `json:"now"`
	Data   map[string]any `json:"data"`
	Rules  []string       `json:"rules"`
	Inputs []any          `json:"inputs"`
}

func main() {
	var asked document
	decoder := json.NewDecoder(os.Stdin)
	decoder.UseNumber()
	if err := decoder.Decode(&asked); err != nil {
		fail(err)
	}
	answers := make([][]any, len(asked.Inputs))
	for _, rule := range asked.Rules {
		prepared, err := asked.prepare(rule)
		if err != nil {
			fail(err)
		}
		for number, input := range asked.Inputs {
			answers[number] = append(answers[number], answer(prepared, input))
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		fail(err)
	}
}

func (asked document) prepare(rule string) (rego.PreparedEvalQuery, error) {
	return rego.New(
		rego.Query(fmt.Sprintf("data.policy.%s with data.policy.now_ns as %s", rule, asked.Now)),
		rego.Module("policy.rego", asked.Policy),
		rego.Store(inmem.NewFromObject(asked.Data)),
		rego.StrictBuiltinErrors(true),
		rego.Function1(
			&rego.Function{Name: "query_reference_value", Decl: types.NewFunction(types.Args(types.S), types.A)},
			func(_ rego.BuiltinContext, name *ast.Term) (*ast.Term, error) {
				text, _ := name.Value.(ast.String)
				value, err := ast.InterfaceToValue(asked.Values[string(text)])
				return ast.NewTerm(value), err
			},
		),
	).PrepareForEval(context.Background())
}

func answer(prepared rego.PreparedEvalQuery, input any) any {
	found, err := prepared.Eval(context.Background(), rego.EvalInput(input))
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	if len(found) == 0 {
		return nil
	}
	return found[0].Expressions[0].Value
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(2)
}
