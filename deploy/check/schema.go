package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"
)

// The schemas, by module and hash. The newest three minors whose k8s.io/kubernetes the module proxy has.
var kubernetes = map[string]module{
	"1.34": {"k8s.io/kubernetes", "v1.34.4", "h1:Yy6R4QB8C9kJPp25GFqEvX5XQwY5qzKeqD0Xx6oAcmk="},
	"1.35": {"k8s.io/kubernetes", "v1.35.4", "h1:o/8dBC/pHVpYoGV4OAIytAlNPZbdYVTXJHoYvXC4qzM="},
	"1.36": {"k8s.io/kubernetes", "v1.36.3", "h1:qDQdoMiluAE2Eab6Fa52YV+WjiGz9mZFFoagEA6cI+o="},
}

var operator = module{"github.com/prometheus-operator/prometheus-operator", "v0.85.0", "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="}

// Where the operator's module has its CRDs.
const crds = "example/prometheus-operator-crd"

type module struct{ path, version, sum string }

// folder downloads the module, checks its hash, and says where it lies.
func (m module) folder() (string, error) {
	command := exec.Command("go", "mod", "download", "-json", m.path+"@"+m.version)
	// Outside of any module: these are data, not dependencies.
	command.Dir = os.TempDir()
	command.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	text, err := command.Output()
	var told struct{ Dir, Sum, Error string }
	if e := json.Unmarshal(text, &told); e != nil || told.Error != "" {
		return "", fmt.Errorf("%s@%s cannot be downloaded: %s %v", m.path, m.version, told.Error, err)
	}
	if told.Sum != m.sum {
		return "", fmt.Errorf("%s@%s has the hash %s, and %s is pinned", m.path, m.version, told.Sum, m.sum)
	}
	return told.Dir, nil
}

type kindOf struct{ apiVersion, kind string }

// validator knows the schema of each kind in each minor; kinds of CRDs stand under each minor as well.
type validator struct {
	kinds map[string]map[kindOf]*jsonschema.Schema
}

func (v validator) minors() []string {
	var all []string
	for minor := range v.kinds {
		all = append(all, minor)
	}
	sort.Strings(all)
	return all
}

func (v validator) validate(where string, o object) (problems []string) {
	k := kindOf{str(o["apiVersion"]), o.kind()}
	// What Kubernetes parses are JSON numbers.
	plain, err := yaml.Marshal(o)
	if err == nil {
		plain, err = yaml.YAMLToJSON(plain)
	}
	if err != nil {
		return []string{fmt.Sprintf("%s: %s: %v", where, o, err)}
	}
	for _, minor := range v.minors() {
		schema := v.kinds[minor][k]
		if schema == nil {
			problems = append(problems, fmt.Sprintf("%s: %s: Kubernetes %s has no %s %s", where, o, minor, k.apiVersion, k.kind))
			continue
		}
		instance, err := jsonschema.UnmarshalJSON(strings.NewReader(string(plain)))
		if err == nil {
			err = schema.Validate(instance)
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %s by Kubernetes %s: %v", where, o, minor, err))
		}
	}
	return problems
}

func loadSchemas() (validator, error) {
	v := validator{kinds: map[string]map[kindOf]*jsonschema.Schema{}}
	custom, err := customKinds()
	if err != nil {
		return v, err
	}
	for minor, m := range kubernetes {
		folder, err := m.folder()
		if err != nil {
			return v, err
		}
		kinds, err := ownKinds(filepath.Join(folder, "api/openapi-spec/swagger.json"))
		if err != nil {
			return v, fmt.Errorf("Kubernetes %s: %w", minor, err)
		}
		for k, s := range custom {
			kinds[k] = s
		}
		v.kinds[minor] = kinds
	}
	return v, nil
}

// wanted are the groups whose kinds are compiled; all of them would take long for nothing.
func wanted(group string) bool {
	switch group {
	case "", "apps", "policy", "rbac.authorization.k8s.io", "networking.k8s.io", "monitoring.coreos.com":
		return true
	}
	return false
}

func ownKinds(path string) (map[kindOf]*jsonschema.Schema, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		return nil, err
	}
	definitions, _ := dig(document, "definitions").(map[string]any)
	if len(definitions) < 100 {
		return nil, fmt.Errorf("%s has %d definitions", path, len(definitions))
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft7)
	for _, d := range definitions {
		tighten(d)
	}
	// The rest of the document is no schema.
	if err := compiler.AddResource("kubernetes.json", map[string]any{"definitions": definitions}); err != nil {
		return nil, err
	}
	kinds := map[kindOf]*jsonschema.Schema{}
	for name, d := range definitions {
		for _, gvk := range list(dig(d, "x-kubernetes-group-version-kind")) {
			group, version, kind := str(dig(gvk, "group")), str(dig(gvk, "version")), str(dig(gvk, "kind"))
			// Options of requests and the like stand under every group.
			if !wanted(group) || dig(d, "properties", "metadata") == nil {
				continue
			}
			schema, err := compiler.Compile("kubernetes.json#/definitions/" + name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			kinds[kindOf{strings.TrimPrefix(group+"/"+version, "/"), kind}] = schema
		}
	}
	return kinds, nil
}

func customKinds() (map[kindOf]*jsonschema.Schema, error) {
	folder, err := operator.folder()
	if err != nil {
		return nil, err
	}
	kinds := map[kindOf]*jsonschema.Schema{}
	for _, plural := range []string{"servicemonitors", "podmonitors", "prometheusrules"} {
		path := filepath.Join(folder, crds, "monitoring.coreos.com_"+plural+".yaml")
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		text, err = yaml.YAMLToJSON(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		crd, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, version := range list(dig(crd, "spec", "versions")) {
			schema, _ := dig(version, "schema", "openAPIV3Schema").(map[string]any)
			tighten(schema)
			// The API server checks it by the schema of its own, which the objects' names and labels pass elsewhere.
			dig(schema, "properties").(map[string]any)["metadata"] = map[string]any{"type": "object"}
			name := fmt.Sprintf("%s-%s.json", plural, str(dig(version, "name")))
			compiler := jsonschema.NewCompiler()
			compiler.DefaultDraft(jsonschema.Draft7)
			if err := compiler.AddResource(name, schema); err != nil {
				return nil, err
			}
			compiled, err := compiler.Compile(name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			group := str(dig(crd, "spec", "group"))
			kinds[kindOf{group + "/" + str(dig(version, "name")), str(dig(crd, "spec", "names", "kind"))}] = compiled
		}
	}
	return kinds, nil
}

// tighten makes a JSON schema that refuses unknown fields of an OpenAPI one.
func tighten(schema any) {
	s, ok := schema.(map[string]any)
	if !ok {
		return
	}
	if s["format"] == "int-or-string" || s["x-kubernetes-int-or-string"] == true {
		for key := range s {
			delete(s, key)
		}
		s["type"] = []any{"integer", "string"}
		return
	}
	// Formats of Go's types (int32, byte, …) are not JSON schema's, and CEL rules are the API server's.
	delete(s, "format")
	delete(s, "default")
	properties, _ := s["properties"].(map[string]any)
	for _, p := range properties {
		tighten(p)
	}
	tighten(s["items"])
	tighten(s["additionalProperties"])
	for _, key := range []string{"allOf", "anyOf", "oneOf"} {
		for _, one := range list(s[key]) {
			tighten(one)
		}
	}
	_, open := s["additionalProperties"]
	if len(properties) > 0 && !open && s["x-kubernetes-preserve-unknown-fields"] != true {
		s["additionalProperties"] = false
	}
	if s["nullable"] == true {
		if kind, ok := s["type"].(string); ok {
			s["type"] = []any{kind, "null"}
		}
	}
}
