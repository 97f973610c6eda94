// Energies and forces of a compiled model in C++, without Python.
//
//     python -c "from pyg_schnet import SchNet
//     from pyg_schnet.interfaces.export import export
//     export(SchNet.from_pretrained('md17-ethanol'), 'model.pt2', compiled=True)"
//     python examples/cpp/build.py run_model
//     ./run_model model.pt2 molecule.txt 30
//
// The molecule is a text file: the number of atoms, then a line "Z x y z" (angstrom) for each.
// The last argument is the cutoff of the model in angstrom. Printed are the energy, then a line
// "Fx Fy Fz" for each atom, in units of the model.

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: " << argv[0] << " model.pt2 molecule.txt CUTOFF\n";
    return 2;
  }
  std::ifstream file(argv[2]);
  int64_t num_atoms = 0;
  if (!(file >> num_atoms) || num_atoms < 1) {
    std::cerr << argv[2] << " must begin with the number of atoms\n";
    return 1;
  }
  std::vector<int64_t> numbers(num_atoms);
  std::vector<double> positions(3 * num_atoms);
  for (int64_t i = 0; i < num_atoms; ++i) {
    if (!(file >> numbers[i] >> positions[3 * i] >> positions[3 * i + 1] >> positions[3 * i + 2])) {
      std::cerr << argv[2] << " ends before atom " << i << "\n";
      return 1;
    }
  }

  const double cutoff = std::atof(argv[3]);
  std::vector<int64_t> sources, targets;
  for (int64_t i = 0; i < num_atoms; ++i) {
    for (int64_t j = 0; j < num_atoms; ++j) {
      double squared = 0.0;
      for (int k = 0; k < 3; ++k) {
        const double difference = positions[3 * i + k] - positions[3 * j + k];
        squared += difference * difference;
      }
      if (i != j && squared < cutoff * cutoff) {
        sources.push_back(j);
        targets.push_back(i);
      }
    }
  }
  const auto num_edges = static_cast<int64_t>(sources.size());
  sources.insert(sources.end(), targets.begin(), targets.end());

  const auto integers = torch::dtype(torch::kInt64);
  const auto reals = torch::dtype(torch::kFloat64);
  std::vector<at::Tensor> inputs = {
      torch::from_blob(numbers.data(), {num_atoms}, integers),
      torch::from_blob(positions.data(), {num_atoms, 3}, reals),
      torch::zeros({num_atoms}, integers),  // all atoms are of one system
      torch::from_blob(sources.data(), {2, num_edges}, integers),
      torch::zeros({num_edges, 3}, reals),  // nothing is periodic
      torch::zeros({1, 3, 3}, reals),
  };
  c10::InferenceMode guard;
  torch::inductor::AOTIModelPackageLoader program(argv[1]);
  const auto outputs = program.run(inputs);  // energy, energies, forces, virial
  const auto forces = outputs[2].contiguous();
  if (!at::isfinite(forces).all().item<bool>() || !at::isfinite(outputs[0]).all().item<bool>()) {
    std::cerr << "the model refuses this molecule: see the documentation of export\n";
    return 1;
  }
  std::printf("%.12g\n", outputs[0].item<double>());
  for (int64_t i = 0; i < num_atoms; ++i) {
    const double* force = forces.const_data_ptr<double>() + 3 * i;
    std::printf("%.12g %.12g %.12g\n", force[0], force[1], force[2]);
  }
  return 0;
}
