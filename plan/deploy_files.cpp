// The kinds of files that start a deployment; what is in them comes from Deployment.
#include <algorithm>

#include "base/text.h"
#include "plan/deploy.h"

namespace orrery {

namespace {

constexpr int http_port = 8000;
constexpr std::int64_t most_gpus_of_host = 8;

std::string name_of(const DeployPool& pool, std::int64_t replica) {
  return pool.name + "-" + std::to_string(replica);
}
std::string config_name(const std::string& pool) { return "config-" + pool + ".yaml"; }

// A word for a shell; one that holds a variable is put into double quotes.
std::string shell_word(const std::string& word) {
  if (word.find('$') != std::string::npos) return '"' + word + '"';
  const bool plain = !word.empty() && word.find_first_of(" \t\"'{}[]()<>|&;*?#~`\\") == std::string::npos;
  return plain ? word : "'" + word + "'";
}

// The variables that an instance's script sets.
LaunchFacts shell_facts(const DeployPool& pool) {
  return {{"model", "$MODEL"},
          {"port", "$PORT"},
          {"config", "$CONFIG"},
          {"leader", "$LEADER"},
          {"node_rank", "$NODE_RANK"},
          {"self", "${SELF:-localhost}"},
          {"start_rank", "$((NODE_RANK * " + std::to_string(pool.ranks_per_node) + "))"}};
}

std::string model_or(const DeployPool& pool) { return pool.model.empty() ? "MODEL" : pool.model; }

// What runs an instance, or its node of number NODE_RANK.
std::string script(const DeployPool& pool) {
  const LaunchFacts facts = shell_facts(pool);
  std::string out = "set -euo pipefail\nMODEL=${MODEL:-" + model_or(pool) + "}\nPORT=${PORT:-" +
                    std::to_string(http_port) + "}\n";
  if (pool.nodes > 1) {
    out +=
        "NODE_RANK=${NODE_RANK:-${LWS_WORKER_INDEX:-0}}\nLEADER=${LEADER:-${LWS_LEADER_ADDRESS:?address of "
        "the first node}}\n";
  }
  if (!pool.launch.config.empty())
    out += "CONFIG=${CONFIG:-$(dirname \"$0\")/" + config_name(pool.name) + "}\n";
  for (const auto& [key, value] : pool.launch.env)
    out += "export " + key + "=" + shell_word(filled(value, facts)) + "\n";
  out += "set --";
  for (const std::string& word : pool.launch.words) {
    out += (word.starts_with("--") ? " \\\n  " : " ") + shell_word(filled(word, facts));
  }
  out += "\n";
  if (pool.nodes > 1 && !pool.follower.empty())
    out += "[ \"$NODE_RANK\" = 0 ] || set -- \"$@\" " + join(pool.follower, " ") + "\n";
  return out + "exec \"$@\"\n";
}

// Words for a container, in which everything has one place.
std::vector<std::string> container_words(const DeployPool& pool, const std::string& model,
                                         const std::string& self) {
  const LaunchFacts facts = {{"model", model},
                             {"port", std::to_string(http_port)},
                             {"config", "/config/" + config_name(pool.name)},
                             {"self", self}};
  std::vector<std::string> words;
  for (const std::string& word : pool.launch.words) words.push_back(filled(word, facts));
  return words;
}

// URLs of the instances of a role.
std::vector<std::string> urls(const Deployment& d, const std::string& role, bool kubernetes) {
  std::vector<std::string> out;
  for (const DeployPool& pool : d.pools) {
    if (pool.role != role) continue;
    for (std::int64_t i = 0; i < pool.replicas; ++i) {
      out.push_back("http://" + name_of(pool, i) + (kubernetes ? "." + pool.name : "") + ":" +
                    std::to_string(http_port));
    }
  }
  return out;
}

// The configuration file of a router that has one, and its command.
Json router_config(const Deployment& d, const std::vector<std::string>& prefill,
                   const std::vector<std::string>& decode) {
  Json config = Json::object();
  if (!d.router || d.router->servers.empty()) return config;
  config["hostname"] = "0.0.0.0";
  config["port"] = http_port;
  config["backend"] = "pytorch";
  const auto list = [&](const char* role, const std::vector<std::string>& servers) {
    Json& node = config[d.router->servers.at(role)];
    node["num_instances"] = servers.size();
    node["urls"] = Json::array();
    for (const std::string& url : servers) node["urls"].push_back(url.substr(std::string("http://").size()));
  };
  list("prefill", prefill);
  list("decode", decode);
  return config;
}

std::vector<std::string> router_words(const Deployment& d, const std::vector<std::string>& prefill,
                                      const std::vector<std::string>& decode, const std::string& config) {
  const LaunchRouter& router = *d.router;
  const auto policy = router.policies.find(d.pools.front().router);
  LaunchFacts facts = {{"config", config},
                       {"policy", policy == router.policies.end() ? "round_robin" : policy->second}};
  std::vector<std::string> words;
  for (const std::string& word : router.command) words.push_back(filled(word, facts));
  const auto add = [&](const std::vector<std::string>& servers, const std::vector<std::string>& each) {
    for (const std::string& url : servers) {
      facts["url"] = url;
      for (const std::string& word : each) words.push_back(filled(word, facts));
    }
  };
  add(prefill, router.prefill);
  add(decode, router.decode);
  return words;
}

// nginx before equal instances; least_conn is the router `least-loaded`, exactly.
std::string nginx_config(const Deployment& d) {
  std::string out = "events {}\nhttp {\n  upstream engines {\n";
  if (d.pools.front().router == "least-loaded") out += "    least_conn;\n";
  for (const std::string& url : urls(d, "mixed", false)) out += "    server " + url.substr(7) + ";\n";
  return out + "  }\n  server {\n    listen " + std::to_string(http_port) +
         ";\n    location / {\n      proxy_pass http://engines;\n      proxy_buffering off;\n      "
         "proxy_read_timeout 3600s;\n    }\n  }\n}\n";
}

Json compose_devices(const DeployPool& pool, std::int64_t first_gpu) {
  Json service = Json::object();
  if (pool.vendor == "amd") {
    service["devices"] = Json::array({"/dev/kfd", "/dev/dri"});
    service["group_add"] = Json::array({"video"});
    std::string ids;
    for (std::int64_t g = 0; g < pool.gpus; ++g) ids += (g > 0 ? "," : "") + std::to_string(first_gpu + g);
    service["environment"]["HIP_VISIBLE_DEVICES"] = ids;
    return service;
  }
  Json device{{"driver", "nvidia"}, {"device_ids", Json::array()}, {"capabilities", Json::array({"gpu"})}};
  for (std::int64_t g = 0; g < pool.gpus; ++g) device["device_ids"].push_back(std::to_string(first_gpu + g));
  service["deploy"]["resources"]["reservations"]["devices"] = Json::array({std::move(device)});
  return service;
}

Json compose_instance(const DeployPool& pool, std::int64_t replica, std::int64_t first_gpu) {
  std::vector<std::string> words =
      container_words(pool, "${MODEL:-" + model_or(pool) + "}", name_of(pool, replica));
  Json service;
  service["image"] = pool.image;
  service["entrypoint"] = Json::array({words.front()});
  service["command"] = std::vector<std::string>(words.begin() + 1, words.end());
  service.update(compose_devices(pool, first_gpu));
  service["environment"]["HF_TOKEN"] = "${HF_TOKEN:-}";
  for (const auto& [key, value] : pool.launch.env)
    service["environment"][key] = filled(value, {{"self", name_of(pool, replica)}});
  service["ipc"] = "host";  // NCCL and KV transfers between containers of a host
  service["volumes"] = Json::array({"${HF_HOME:-~/.cache/huggingface}:/root/.cache/huggingface"});
  if (!pool.launch.config.empty()) {
    service["configs"] = Json::array(
        {Json{{"source", "config-" + pool.name}, {"target", "/config/" + config_name(pool.name)}}});
  }
  return service;
}

// Who answers on the host's port: the only instance, nginx, or the router of prefill and decode pools.
void add_front(const Deployment& d, Json& compose) {
  const Json port = Json::array({"8000:8000"});
  if (!d.apart()) {
    if (compose["services"].size() == 1) {
      compose["services"].begin().value()["ports"] = port;
      return;
    }
    compose["services"]["router"] =
        Json{{"image", "nginx:1.27"},
             {"configs", Json::array({Json{{"source", "nginx"}, {"target", "/etc/nginx/nginx.conf"}}})},
             {"ports", port}};
    compose["configs"]["nginx"]["content"] = nginx_config(d);
    return;
  }
  const auto prefill = urls(d, "prefill", false), decode = urls(d, "decode", false);
  const std::vector<std::string> words = router_words(d, prefill, decode, "/config/router.yaml");
  Json router{{"image", d.router->image},
              {"entrypoint", Json::array({words.front()})},
              {"command", std::vector<std::string>(words.begin() + 1, words.end())},
              {"ports", port}};
  if (const Json config = router_config(d, prefill, decode); !config.empty()) {
    router["configs"] = Json::array({Json{{"source", "router"}, {"target", "/config/router.yaml"}}});
    compose["configs"]["router"]["content"] = yaml_text(config);
  }
  compose["services"]["router"] = std::move(router);
}

std::string compose_file(const Deployment& d) {
  Json compose{{"name", "orrery-plan"}, {"services", Json::object()}};
  std::int64_t gpu = 0;
  for (const DeployPool& pool : d.pools) {
    for (std::int64_t i = 0; i < pool.replicas; ++i, gpu += pool.gpus)
      compose["services"][name_of(pool, i)] = compose_instance(pool, i, gpu);
    if (!pool.launch.config.empty())
      compose["configs"]["config-" + pool.name]["content"] = yaml_text(pool.launch.config);
  }
  add_front(d, compose);
  return "# One host: docker compose up. MODEL and HF_TOKEN come from the environment.\n" +
         yaml_text(compose);
}

Json labels_of(const std::string& name) { return Json{{"app", name}}; }

Json metadata_of(const std::string& name) { return Json{{"name", name}, {"labels", labels_of(name)}}; }

Json service_of(const std::string& name, const std::string& app, bool headless) {
  Json service{{"apiVersion", "v1"}, {"kind", "Service"}, {"metadata", metadata_of(name)}};
  if (headless) service["spec"]["clusterIP"] = "None";
  service["spec"]["selector"] = labels_of(app);
  service["spec"]["ports"] =
      Json::array({Json{{"name", "http"}, {"port", http_port}, {"targetPort", http_port}}});
  return service;
}

Json config_map(const std::string& name, const std::string& file, const std::string& text) {
  return Json{{"apiVersion", "v1"},
              {"kind", "ConfigMap"},
              {"metadata", metadata_of(name)},
              {"data", Json{{file, text}}}};
}

// The container of an instance, or of a node of one that has several.
Json pod_of(const DeployPool& pool) {
  const std::string resource = pool.vendor == "amd" ? "amd.com/gpu" : "nvidia.com/gpu";
  Json container{{"name", "engine"}, {"image", pool.image}};
  if (pool.nodes > 1) {
    container["command"] = Json::array({"/bin/bash", "-c", script(pool)});
  } else {
    container["command"] = container_words(pool, model_or(pool), "$(SELF)");
  }
  container["env"] = Json::array(
      {Json{{"name", "SELF"}, {"valueFrom", Json{{"fieldRef", Json{{"fieldPath", "status.podIP"}}}}}}});
  // Where the models need one: kubectl create secret generic hf-token --from-literal=token=…
  container["env"].push_back(
      Json{{"name", "HF_TOKEN"},
           {"valueFrom",
            Json{{"secretKeyRef", Json{{"name", "hf-token"}, {"key", "token"}, {"optional", true}}}}}});
  for (const auto& [key, value] : pool.launch.env)
    container["env"].push_back(Json{{"name", key}, {"value", filled(value, {{"self", "$(SELF)"}})}});
  container["ports"] = Json::array({Json{{"name", "http"}, {"containerPort", http_port}}});
  container["resources"]["limits"][resource] = pool.gpus / pool.nodes;
  // Loading weights takes minutes; nothing is sent before the engine says that it is well.
  const Json probe{{"httpGet", Json{{"path", "/health"}, {"port", http_port}}}, {"periodSeconds", 10}};
  if (pool.nodes == 1) {
    container["startupProbe"] = probe;
    container["startupProbe"]["failureThreshold"] = 360;
    container["readinessProbe"] = probe;
  }
  container["volumeMounts"] = Json::array({Json{{"name", "shm"}, {"mountPath", "/dev/shm"}}});
  Json volumes = Json::array({Json{{"name", "shm"}, {"emptyDir", Json{{"medium", "Memory"}}}}});
  if (!pool.launch.config.empty()) {
    container["volumeMounts"].push_back(Json{{"name", "config"}, {"mountPath", "/config"}});
    volumes.push_back(Json{{"name", "config"}, {"configMap", Json{{"name", "config-" + pool.name}}}});
  }
  return Json{{"containers", Json::array({std::move(container)})}, {"volumes", std::move(volumes)}};
}

Json template_of(const std::string& name, Json pod) {
  return Json{{"metadata", Json{{"labels", labels_of(name)}}}, {"spec", std::move(pod)}};
}

// A StatefulSet, whose pods have names that routers can be told; over several nodes a LeaderWorkerSet.
Json workload_of(const DeployPool& pool) {
  if (pool.nodes > 1) {
    return Json{{"apiVersion", "leaderworkerset.x-k8s.io/v1"},
                {"kind", "LeaderWorkerSet"},
                {"metadata", metadata_of(pool.name)},
                {"spec", Json{{"replicas", pool.replicas},
                              {"leaderWorkerTemplate",
                               Json{{"size", pool.nodes},
                                    {"restartPolicy", "RecreateGroupOnPodRestart"},
                                    {"leaderTemplate", template_of(pool.name, pod_of(pool))},
                                    {"workerTemplate", template_of(pool.name + "-worker", pod_of(pool))}}}}}};
  }
  return Json{{"apiVersion", "apps/v1"},
              {"kind", "StatefulSet"},
              {"metadata", metadata_of(pool.name)},
              {"spec", Json{{"serviceName", pool.name},
                            {"replicas", pool.replicas},
                            {"podManagementPolicy", "Parallel"},
                            {"selector", Json{{"matchLabels", labels_of(pool.name)}}},
                            {"template", template_of(pool.name, pod_of(pool))}}}};
}

void add_router(const Deployment& d, std::vector<Json>& objects) {
  const auto prefill = urls(d, "prefill", true), decode = urls(d, "decode", true);
  Json container{{"name", "router"},
                 {"image", d.router->image},
                 {"command", router_words(d, prefill, decode, "/config/router.yaml")},
                 {"ports", Json::array({Json{{"name", "http"}, {"containerPort", http_port}}})}};
  Json pod = Json::object();
  if (const Json config = router_config(d, prefill, decode); !config.empty()) {
    objects.push_back(config_map("router-config", "router.yaml", yaml_text(config)));
    container["volumeMounts"] = Json::array({Json{{"name", "config"}, {"mountPath", "/config"}}});
    pod["volumes"] = Json::array({Json{{"name", "config"}, {"configMap", Json{{"name", "router-config"}}}}});
  }
  pod["containers"] = Json::array({std::move(container)});
  objects.push_back(Json{{"apiVersion", "apps/v1"},
                         {"kind", "Deployment"},
                         {"metadata", metadata_of("router")},
                         {"spec", Json{{"replicas", 1},
                                       {"selector", Json{{"matchLabels", labels_of("router")}}},
                                       {"template", template_of("router", std::move(pod))}}}});
  objects.push_back(service_of("router", "router", false));
}

std::string kubernetes_file(const Deployment& d) {
  std::vector<Json> objects;
  for (const DeployPool& pool : d.pools) {
    if (!pool.launch.config.empty())
      objects.push_back(
          config_map("config-" + pool.name, config_name(pool.name), yaml_text(pool.launch.config)));
    objects.push_back(workload_of(pool));
    // A LeaderWorkerSet brings a headless Service of its name, by which its leaders are found.
    if (pool.nodes == 1)
      objects.push_back(service_of(pool.name, pool.name, d.apart()));
    else if (!d.apart())
      objects.push_back(service_of(pool.name + "-http", pool.name, false));
  }
  if (d.apart()) add_router(d, objects);
  std::string out = "# kubectl apply -f kubernetes.yaml";
  for (const Json& object : objects) out += (out.back() == '\n' ? "---\n" : "\n") + yaml_text(object);
  return out;
}

std::string shell_file(const std::string& what, const std::string& body) {
  return "#!/usr/bin/env bash\n# " + what + "\n" + body;
}

std::string router_script(const Deployment& d) {
  std::string out = "set -euo pipefail\n# HOST:8000 of each server; on one host ports differ.\nexec";
  const auto prefill = urls(d, "prefill", false), decode = urls(d, "decode", false);
  for (const std::string& word : router_words(d, prefill, decode, "$(dirname \"$0\")/router.yaml"))
    out += (word.starts_with("--") ? " \\\n  " : " ") +
           (word.starts_with("$(") ? '"' + word + '"' : shell_word(word));
  return out + "\n";
}

std::string readme(const Deployment& d, const std::string& scenario_path, bool compose, bool cluster) {
  std::string out =
      "# Deploy files\n\nWritten by `orrery plan`; flags are those of the engine versions of the "
      "scenario. Images' tags and how pods find each other were not tried.\n\n";
  for (const DeployPool& pool : d.pools) {
    out += "- `serve-" + pool.name + ".sh`: one of " + std::to_string(pool.replicas) + " instances of pool " +
           pool.name + ", " + std::to_string(pool.gpus) + " GPUs each";
    if (pool.nodes > 1)
      out += ", on " + std::to_string(pool.nodes) + " nodes: NODE_RANK=0, 1, … and LEADER on each";
    out += "\n";
  }
  if (d.apart()) out += "- `router.sh`: what stands before prefill and decode servers\n";
  if (compose) out += "- `compose.yaml`: all of it on one host\n";
  if (cluster) out += "- `kubernetes.yaml`: all of it in a cluster\n";
  out +=
      "- `check.sh URL`: plays the workload against it, measured beside predicted (`orrery live`, scenario " +
      scenario_path + ")\n";
  if (!d.notes.empty()) out += "\nLeft to you:\n\n";
  for (const std::string& note : d.notes) out += "- " + note + "\n";
  return out;
}

}  // namespace

std::vector<DeployFile> deploy_files(const Deployment& deployment, const std::string& scenario_path) {
  std::vector<DeployFile> files;
  const bool complete = !deployment.pools.empty() && (!deployment.apart() || deployment.router);
  for (const DeployPool& pool : deployment.pools) {
    files.push_back({"serve-" + pool.name + ".sh",
                     shell_file("An instance of pool " + pool.name + ".", script(pool)), true});
    if (!pool.launch.config.empty())
      files.push_back({config_name(pool.name), yaml_text(pool.launch.config), false});
  }
  const bool one_node = std::all_of(deployment.pools.begin(), deployment.pools.end(),
                                    [](const DeployPool& pool) { return pool.nodes == 1; });
  const bool by_hand = std::any_of(deployment.pools.begin(), deployment.pools.end(),
                                   [](const DeployPool& pool) { return pool.by_hand; });
  const bool compose = complete && one_node && deployment.gpus() <= most_gpus_of_host;
  if (compose) files.push_back({"compose.yaml", compose_file(deployment), false});
  const bool cluster = complete && !by_hand;
  if (cluster) files.push_back({"kubernetes.yaml", kubernetes_file(deployment), false});
  if (complete && deployment.apart()) {
    files.push_back(
        {"router.sh", shell_file("Before prefill and decode servers.", router_script(deployment)), true});
    const Json config =
        router_config(deployment, urls(deployment, "prefill", false), urls(deployment, "decode", false));
    if (!config.empty()) files.push_back({"router.yaml", yaml_text(config), false});
  }
  files.push_back(
      {"check.sh",
       shell_file("Measured beside predicted: check.sh http://HOST:PORT",
                  "set -euo pipefail\ncd \"$(dirname \"$0\")\"\nexec \"${ORRERY:-orrery}\" live " +
                      shell_word(scenario_path) +
                      " --endpoint \"${1:?URL of the server}\" --out \"../../live-$(basename \"$PWD\")\"\n"),
       true});
  files.push_back({"README.md", readme(deployment, scenario_path, compose, cluster), false});
  return files;
}

}  // namespace orrery
