// Builds a network, calibrates, quantizes, measures, saves and loads it. There is no Python here.
#include <torch/nn.h>
#include <torch/optim.h>

#include <iomanip>
#include <map>

#include "program.h"

namespace {

constexpr const char* kUsage =
    "usage: quantize_network OUT.safetensors\n"
    "       quantize_network --load FILE.safetensors INPUT.pt OUTPUT.pt\n"
    "The first trains a small network, quantizes it, prints what that costs, and saves it. Python\n"
    "reads the file: torchquant.load_quantized(nn.Sequential(nn.Linear(16, 64), nn.ReLU(),\n"
    "nn.Linear(64, 4)), path).\n"
    "The second runs a network that torchquant.save_quantized wrote in Python, of an "
    "nn.Sequential\n"
    "of nn.Linear with nn.ReLU between them:\n"
    "  INPUT.pt   its input: torch.save(x, path)\n"
    "  OUTPUT.pt  where to write the resulting tensor; torch.load(path) reads it\n";

constexpr int kInputs = 16, kHidden = 64, kOutputs = 4;

using Layers = std::map<int, torchquant::QuantizedLinear>;  // by their place in the network

at::Tensor run(const Layers& layers, at::Tensor x) {
  const int last = layers.rbegin()->first;
  for (const auto& [place, layer] : layers) {
    x = layer(x);
    // Of 8-bit codes a relu has been computed by the layer that gave them.
    if (place != last && x.is_floating_point()) x = at::relu(x);
  }
  return x;
}

struct Data {
  at::Tensor inputs, targets;
};

Data make_data(int64_t count) {
  const at::Tensor x = at::randn({count, kInputs});
  return {x, at::stack({(x * x).mean(1), x.select(1, 0).sin(), x.select(1, 1) * x.select(1, 2),
                        x.amax(1)},
                       1)};
}

struct Network : torch::nn::Module {
  torch::nn::Linear first{kInputs, kHidden}, second{kHidden, kOutputs};

  Network() {
    register_module("first", first);
    register_module("second", second);
  }
  at::Tensor hidden(const at::Tensor& x) { return at::relu(first(x)); }
  at::Tensor forward(const at::Tensor& x) { return second(hidden(x)); }
};

void train(Network& network) {
  torch::optim::Adam optimizer(network.parameters(), /*lr=*/5e-3);
  for (int step = 0; step < 300; ++step) {
    const Data data = make_data(256);
    optimizer.zero_grad();
    at::mse_loss(network.forward(data.inputs), data.targets).backward();
    optimizer.step();
  }
}

Layers quantize_dynamic(Network& network) {
  return {{0, torchquant::quantize_linear(network.first->weight, network.first->bias)},
          {2, torchquant::quantize_linear(network.second->weight, network.second->bias)}};
}

// Both layers take uint8 in ranges that data showed; the first gives the second's codes.
Layers quantize_static(Network& network, const at::Tensor& data) {
  torchquant::Histogram inputs, hidden;
  for (const at::Tensor& batch : data.split(64)) {
    inputs.observe(batch);
    hidden.observe(network.hidden(batch));
  }
  const auto [input_scale, input_zero_point] = inputs.qparams();
  const auto [hidden_scale, hidden_zero_point] = hidden.qparams();
  torchquant::QuantizedLinear first = torchquant::quantize_linear_static(
      network.first->weight, network.first->bias, input_scale, input_zero_point, "relu");
  first.output_scale = hidden_scale;
  first.output_zero_point = hidden_zero_point;
  torchquant::QuantizedLinear second = torchquant::quantize_linear_static(
      network.second->weight, network.second->bias, hidden_scale, hidden_zero_point);
  second.output_dtype = at::kFloat;
  return {{0, first}, {2, second}};
}

void print_error(const char* name, const at::Tensor& original, const at::Tensor& approximation) {
  const at::Tensor error = torchquant::quantization_error(original, approximation);
  constexpr const char* kMetrics[] = {"max_error", "mean_error", "mse", "snr_db"};
  for (int i = 0; i < 4; ++i) {
    std::cout << name << ' ' << kMetrics[i] << ": " << error[i].item<double>() << '\n';
  }
}

void save(const Layers& layers, const std::string& path) {
  torchquant::QuantizedModel model;
  for (const auto& [place, layer] : layers) model.layers[std::to_string(place)] = layer;
  torchquant::save_quantized(model, path);
}

// Of two layers without a module between them, none is an nn.ReLU.
void check_apart(const Layers& layers, const std::string& path) {
  for (const auto& [place, layer] : layers) {
    if (layers.count(place + 1)) {
      throw std::runtime_error(
          path + " must hold an nn.ReLU between any two layers, but has none " + "between " +
          std::to_string(place) + " and " + std::to_string(place + 1));
    }
  }
}

Layers load(const std::string& path) {
  const torchquant::QuantizedModel model = torchquant::load_quantized(path);
  if (!model.tensors.empty()) {
    throw std::runtime_error(path + " must hold nn.Linear and nn.ReLU alone, but has " +
                             model.tensors.begin()->first + " too");
  }
  Layers layers;
  for (const auto& [name, layer] : model.layers) {
    if (name.empty() || name.find_first_not_of("0123456789") != name.npos || name.size() > 6) {
      throw std::runtime_error(path + " must hold layers of one nn.Sequential, whose names are " +
                               "numbers, but has '" + name + "'");
    }
    layers[std::stoi(name)] = layer;
  }
  if (layers.empty()) throw std::runtime_error(path + " must hold layers, but has none");
  check_apart(layers, path);
  return layers;
}

void quantize_and_save(const std::string& path) {
  torch::manual_seed(0);
  Network network;
  train(network);
  torch::NoGradGuard guard;
  const at::Tensor known = make_data(2048).inputs, fresh = make_data(512).inputs;
  const at::Tensor expected = network.forward(fresh);
  std::cout << std::setprecision(10);
  print_error("dynamic", expected, run(quantize_dynamic(network), fresh));
  const Layers layers = quantize_static(network, known);
  const at::Tensor output = run(layers, fresh);
  print_error("static", expected, output);
  save(layers, path);
  const bool same = run(load(path), fresh).equal(output);
  std::cout << "saved: " << path << '\n'
            << "loaded gives the same bits: " << (same ? "yes" : "no") << '\n';
  if (!same) throw std::runtime_error("the loaded network gives other bits than the saved one");
}

void load_and_run(const std::string& path, const std::string& input, const std::string& output) {
  torch::NoGradGuard guard;
  const Layers layers = load(path);
  const c10::IValue x = program::load_value(input);
  if (!x.isTensor()) throw std::runtime_error(input + " must hold a tensor: torch.save(x, path)");
  program::save_tensor(run(layers, x.toTensor()), output);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const bool loads = arguments.size() == 4 && arguments[0] == "--load";
  if (!loads && (arguments.size() != 1 || arguments[0].rfind('-', 0) == 0)) {
    const bool asked = arguments.size() == 1 && arguments[0] == "--help";
    (asked ? std::cout : std::cerr) << kUsage;
    return asked ? 0 : 2;
  }
  return program::run_main("quantize_network", [&] {
    if (loads) {
      load_and_run(arguments[1], arguments[2], arguments[3]);
    } else {
      quantize_and_save(arguments[0]);
    }
  });
}
